-- A book was closed, and has a line: its node is one that was taken for dead again, unless it was heard of since.
--
-- ARGV[1] the node.
local score = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or -1)
if score >= RETIRED then
  redis.call('ZADD', KEYS[1], exact(CONDEMNED + now), ARGV[1])
end
return 0
