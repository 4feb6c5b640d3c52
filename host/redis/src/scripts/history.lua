-- Reads the top and a page of history.
--
-- ARGV[2] life of the meta in milliseconds; [3] most entries, 0 for the top alone, -1 for all there are; [4] epoch that
-- the reader means, empty for whatever there is; [5] and [6] ids to read from and to; [7] XRANGE or XREVRANGE.
if not is_stored then
  -- Who is told a position relies on it. Without a time the next publication renews the lives.
  redis.call('SET', KEYS[1], generation .. '0000000000' .. epoch .. string.format('%.0f', offset), 'PX', ARGV[2])
elseif redis.call('PTTL', KEYS[1]) < ARGV[2] * 15 / 16 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
local entries = {}
if ARGV[3] ~= '0' and (ARGV[4] == '' or ARGV[4] == epoch) then
  if ARGV[3] == '-1' then
    entries = redis.pcall(ARGV[7], KEYS[2], ARGV[5], ARGV[6])
  else
    entries = redis.pcall(ARGV[7], KEYS[2], ARGV[5], ARGV[6], 'COUNT', ARGV[3])
  end
  if entries.err then
    if not entries.err:find('WRONGTYPE', 1, true) then
      return entries
    end
    entries = {}
  end
end
return { epoch .. string.format('%.0f', offset), entries }
