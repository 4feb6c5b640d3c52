-- A node that was taken for dead has an empty book; answers 1 if the book is closed.
--
-- ARGV[1] the node.
local score = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or -1)
if score >= RETIRED then
  return 1
end
if score < CONDEMNED then
  return 0
end
redis.call('ZADD', KEYS[1], exact(RETIRED + now), ARGV[1])
return 1
