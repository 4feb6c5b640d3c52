-- Puts clients in, or prolongs what is there. ARGV[1] life in milliseconds, then client and entry, in turns.
--
-- Where one of the three keys has gone by itself (evicted, deleted) the numbers are no longer true: all of it begins
-- anew, and the heartbeats of the nodes bring everybody back.
local there = redis.call('EXISTS', KEYS[1], KEYS[2], KEYS[3])
if there ~= 0 and there ~= 3 then
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
end
local life = tonumber(ARGV[1])
for i = 2, #ARGV, 2 do
  local client, entry = ARGV[i], ARGV[i + 1]
  local before = redis.call('HGET', KEYS[1], client)
  if before ~= entry then
    redis.call('HSET', KEYS[1], client, entry)
    redis.call('HINCRBY', KEYS[3], user_of(entry), 1)
    if before then
      discount(user_of(before))
    end
  end
  redis.call('ZADD', KEYS[2], now + life, client)
end
for i = 1, 3 do
  redis.call('PEXPIRE', KEYS[i], life)
end
return 0
