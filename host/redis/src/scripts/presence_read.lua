-- Takes those out whose time is over, at most ARGV[1] of them, and answers the numbers of clients and users, 1 if more
-- are over, and everybody where they are at most ARGV[2].
local over = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now), 'LIMIT', 0, ARGV[1])
for i = 1, #over do
  remove(over[i])
end
local clients = redis.call('HLEN', KEYS[1])
local has_more = 0
if #over == tonumber(ARGV[1]) then
  has_more = 1
end
local entries = {}
if has_more == 0 and clients <= tonumber(ARGV[2]) then
  entries = redis.call('HGETALL', KEYS[1])
end
return { clients, redis.call('HLEN', KEYS[3]), has_more, entries }
