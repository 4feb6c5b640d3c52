-- Publishes with history, idempotency key or version.
--
-- KEYS[3] pub/sub channel; KEYS[4] version and KEYS[5] result where one of them is asked for.
-- ARGV[2] entries kept, 0 for no history; [3] and [4] lives of history and meta in milliseconds; [5] the publication;
-- then, with KEYS[4]: [6] version, 0 for none; [7] its epoch; [8] life of the result in milliseconds, 0 for none.
--
-- Answers epoch and offset; with '=' in front for the result of an earlier publish, '<' for a version that is too old;
-- without history nothing behind.
local has_history = ARGV[2] ~= '0'
if KEYS[4] then
  if ARGV[8] ~= '0' then
    local result = redis.call('GET', KEYS[5])
    if result then
      -- A write that changes nothing: `WAIT` stands for what its own connection wrote, and the first may have come by
      -- another one.
      redis.call('PEXPIRE', KEYS[5], redis.call('PTTL', KEYS[5]))
      return '=' .. result
    end
  end
  if ARGV[6] ~= '0' then
    local version, version_epoch = ARGV[6], ARGV[7]
    local stored = redis.call('HMGET', KEYS[4], 'v', 'e')
    local last = stored[1] or ''
    if version_epoch == '' or version_epoch == (stored[2] or '') then
      -- Numbers of up to 64 bits, as text: Lua's own end at 53.
      if #version < #last or (#version == #last and version <= last) then
        if not has_history then
          return '<'
        end
        if not is_stored then
          redis.call('SET', KEYS[1], generation .. '0000000000' .. epoch .. string.format('%.0f', offset), 'PX', ARGV[4])
        end
        return '<' .. epoch .. string.format('%.0f', offset)
      end
      version_epoch = stored[2] or version_epoch
    end
    redis.call('HSET', KEYS[4], 'v', version, 'e', version_epoch)
    redis.call('PEXPIRE', KEYS[4], ARGV[4])
  end
end
local position = ''
local payload = 'n' .. ARGV[5]
if has_history then
  offset = offset + 1
  local text = string.format('%.0f', offset)
  local id = text .. '-0'
  -- The lives that the node asks for are longer by a sixteenth, so that not every publication has to renew them.
  local age = is_stored and stamp:sub(17, 26) - (tonumber(meta:sub(17, 26)) or 0) or -1
  local needs_life = age < 0 or age * 17000 >= tonumber(ARGV[3])
  local added = false
  if not needs_life then
    added = redis.pcall('XADD', KEYS[2], 'NOMKSTREAM', 'MAXLEN', ARGV[2], id, 'd', ARGV[5])
  end
  if not added or added.err then
    needs_life = true
    added = redis.pcall('XADD', KEYS[2], 'MAXLEN', ARGV[2], id, 'd', ARGV[5])
    if added.err then
      if not added.err:find('WRONGTYPE', 1, true) and not added.err:find('equal or smaller', 1, true) then
        return added
      end
      -- What is there belongs to another stream than the meta: it goes, and nobody may think that it was this one.
      redis.call('DEL', KEYS[2])
      if is_stored then
        epoch = stamp:sub(27, 34)
      end
      redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[2], id, 'd', ARGV[5])
    end
  end
  position = epoch .. text
  if needs_life then
    redis.call('PEXPIRE', KEYS[2], ARGV[3])
    redis.call('SET', KEYS[1], generation .. stamp:sub(17, 26) .. position, 'PX', ARGV[4])
  else
    redis.call('SET', KEYS[1], meta:sub(1, 26) .. position, 'KEEPTTL')
  end
  payload = 'p' .. position .. ':' .. ARGV[5]
end
redis.call('PUBLISH', KEYS[3], payload)
if KEYS[4] and ARGV[8] ~= '0' then
  redis.call('SET', KEYS[5], position, 'PX', ARGV[8])
end
return position
