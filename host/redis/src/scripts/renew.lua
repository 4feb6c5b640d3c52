-- Gives the stream a new epoch unless it has one already (threat model R3).
--
-- ARGV[2] the epoch that lost what it had acknowledged; [3] life of a meta made now, in milliseconds.
if epoch == ARGV[2] then
  epoch, is_stored = stamp:sub(35, 42), false
end
if not is_stored then
  local text = generation .. size .. '0000000000' .. epoch .. string.format('%.0f', offset)
  if meta then
    redis.call('SET', KEYS[1], text, 'KEEPTTL')
  else
    redis.call('SET', KEYS[1], text, 'PX', ARGV[3])
  end
end
return epoch .. string.format('%.0f', offset)
