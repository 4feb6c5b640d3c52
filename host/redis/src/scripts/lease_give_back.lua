-- Ends a lease if it is still the holder's, and the one that is meant.
--
-- KEYS[1] the fence, a space and the holder. ARGV[1] the holder, ARGV[2] the fence.
if redis.call('GET', KEYS[1]) == ARGV[2] .. ' ' .. ARGV[1] then
  redis.call('DEL', KEYS[1])
end
return 0
