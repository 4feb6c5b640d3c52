-- A node lives. Answers what was known of it (0 known, 1 unknown, 2 taken for dead), and the nodes that are overdue.
--
-- ARGV[1] the node, [2] silence in milliseconds, [3] life of the key, also of nodes that are gone, [4] most nodes.
local before = redis.call('ZSCORE', KEYS[1], ARGV[1])
local standing = 0
if not before then
  standing = 1
elseif tonumber(before) >= CONDEMNED then
  standing = 2
end
redis.call('ZADD', KEYS[1], exact(now), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local most = ARGV[4]
local old = redis.call('ZRANGEBYSCORE', KEYS[1], exact(RETIRED), exact(RETIRED + now - ARGV[3]), 'LIMIT', 0, most)
for i = 1, #old do
  redis.call('ZREM', KEYS[1], old[i])
end
return {
  standing,
  redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', exact(now - ARGV[2]), 'LIMIT', 0, most),
  redis.call('ZRANGEBYSCORE', KEYS[1], exact(CONDEMNED), '(' .. exact(RETIRED), 'LIMIT', 0, most),
}
