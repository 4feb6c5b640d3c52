-- Reads the top and a page of history.
--
-- ARGV[2] life of the meta in milliseconds; [3] most entries, 0 for the top alone, -1 for all there are; [4] epoch that
-- the reader means, empty for whatever there is; [5] and [6] ids to read from and to; [7] XRANGE or XREVRANGE.
if not is_stored then
  -- Who is told a position relies on it. Without a term the next publication renews the lives.
  local text = generation .. size .. '0000000000' .. epoch .. string.format('%.0f', offset)
  redis.call('SET', KEYS[1], text, 'PX', ARGV[2])
elseif redis.call('PTTL', KEYS[1]) < ARGV[2] * 15 / 16 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
local entries = {}
if ARGV[3] ~= '0' and (ARGV[4] == '' or ARGV[4] == epoch) then
  local from, to = ARGV[5], ARGV[6]
  -- Publishing trims now and then: what is there beyond the size is not history any more.
  local oldest = offset - tonumber(size) + 1
  if size ~= '00000000' and oldest > 1 then
    local id = string.format('%.0f-0', oldest)
    if ARGV[7] == 'XREVRANGE' then
      to = id
    elseif (tonumber(from:match('^%d+')) or 0) < oldest then
      from = id
    end
  end
  if ARGV[3] == '-1' then
    entries = redis.pcall(ARGV[7], KEYS[2], from, to)
  else
    entries = redis.pcall(ARGV[7], KEYS[2], from, to, 'COUNT', ARGV[3])
  end
  if entries.err then
    if not entries.err:find('WRONGTYPE', 1, true) then
      return entries
    end
    entries = {}
  end
end
return { epoch .. string.format('%.0f', offset), entries }
