-- Takes a node for dead that was silent for so long; answers 1 if it is taken for dead.
--
-- ARGV[1] the node, [2] silence in milliseconds.
local score = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or -1)
if score < 0 or score >= RETIRED then
  return 0
end
if score >= CONDEMNED then
  return 1
end
if score > now - ARGV[2] then
  return 0
end
redis.call('ZADD', KEYS[1], exact(CONDEMNED + now), ARGV[1])
return 1
