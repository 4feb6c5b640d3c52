-- Beginning of the script that publishes: what is asked about versions and idempotency keys, and the usual way.
--
-- KEYS[1] meta, KEYS[2] stream, KEYS[3] pub/sub channel; KEYS[4] version and KEYS[5] result where one of them is asked
-- for. ARGV[1] stamp, see position.lua, with `:` and the life of the meta in milliseconds behind, another `:` and that
-- of the history; [2] the publication; then, with KEYS[4]: [3] version, 0 for none; [4] its epoch; [5] life of the
-- result in milliseconds, 0 for none.
--
-- Answers epoch and offset; with '=' in front for the result of an earlier publish, '<' for a version that is too old;
-- without history nothing behind.
--
-- The usual way is the one of nearly every publication: what the meta holds in front of its epoch is what the node
-- would write there, so nothing has to be renewed, and three calls do. Every call and every piece of text that is cut
-- costs Redis a tenth of a microsecond or more, which is why this reads as it does.
local stamp, body = ARGV[1], ARGV[2]
local has_history, is_old = true, false
if KEYS[4] then
  has_history = stamp:sub(17, 24) ~= '00000000'
  if ARGV[5] ~= '0' then
    local result = redis.call('GET', KEYS[5])
    if result then
      -- A write that changes nothing: `WAIT` stands for what its own connection wrote, and the first may have come by
      -- another one.
      redis.call('PEXPIRE', KEYS[5], redis.call('PTTL', KEYS[5]))
      return '=' .. result
    end
  end
  if ARGV[3] ~= '0' then
    local version, version_epoch = ARGV[3], ARGV[4]
    local stored = redis.call('HMGET', KEYS[4], 'v', 'e')
    local last = stored[1] or ''
    if version_epoch == '' or version_epoch == (stored[2] or '') then
      -- Numbers of up to 64 bits, as text: Lua's own end at 53.
      is_old = #version < #last or (#version == #last and version <= last)
      version_epoch = stored[2] or version_epoch
    end
    if not is_old then
      redis.call('HSET', KEYS[4], 'v', version, 'e', version_epoch)
      redis.call('PEXPIRE', KEYS[4], stamp:match(':(%d+)'))
    elseif not has_history then
      return '<'
    end
  end
end
local position, payload
if not has_history then
  position, payload = '', 'n' .. body
elseif not is_old then
  local meta = redis.pcall('GET', KEYS[1])
  if type(meta) == 'string' and meta:sub(1, 34) == stamp:sub(1, 34) then
    local offset = tonumber(meta:sub(43))
    if offset then
      offset = offset + 1
      local text = string.format('%d', offset)
      local added
      -- Entries of one piece of the stream are marked as gone one by one, and Redis walks over the marks each time. So
      -- small ones go sixteen at a time; who reads is shown no more than there should be (history.lua).
      if offset % 16 == 0 or #body > 1024 then
        added = redis.pcall('XADD', KEYS[2], 'NOMKSTREAM', 'MAXLEN', tonumber(stamp:sub(17, 24)), text, 'd', body)
      else
        added = redis.pcall('XADD', KEYS[2], 'NOMKSTREAM', text, 'd', body)
      end
      if type(added) == 'string' then
        redis.call('SETRANGE', KEYS[1], 42, text)
        position = meta:sub(35, 42) .. text
        payload = 'p' .. position .. ':' .. body
      end
    end
  end
end
if not position then
-- Here follow position.lua and publish.lua.
