-- Takes a lease that is free, or prolongs the holder's own; answers its fence, or nothing if it is another's.
--
-- KEYS[1] the fence, a space and the holder. ARGV[1] the holder, ARGV[2] life in milliseconds.
local held = redis.call('GET', KEYS[1])
if held then
  local space = string.find(held, ' ', 1, true)
  if not space or string.sub(held, space + 1) ~= ARGV[1] then
    return false
  end
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return string.sub(held, 1, space - 1)
end
local time = redis.call('TIME')
local fence = string.format('%.0f', time[1] * 1000000 + time[2])
redis.call('SET', KEYS[1], fence .. ' ' .. ARGV[1], 'PX', ARGV[2])
return fence
