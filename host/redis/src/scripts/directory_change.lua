-- Changes the sessions of a user; answers for each change 0, or 1 if there was no session before it, or 2 if there is
-- none after it.
--
-- KEYS[1] hash of client to value; while a user without a session is still there, the field '-' and no other. ARGV[1]
-- life in milliseconds, then kind, client and value, in turns.
local key = KEYS[1]
local function is_empty()
  return redis.call('HLEN', key) == 0
end
local turns = {}
for i = 2, #ARGV, 3 do
  local kind, client, turn = ARGV[i], ARGV[i + 1], 0
  if kind == 'came' then
    if is_empty() then
      turn = 1
    else
      redis.call('HDEL', key, '-')
    end
    redis.call('HSET', key, client, ARGV[i + 2])
  elseif kind == 'settle' then
    if redis.call('HDEL', key, '-') == 1 then
      turn = 2
    end
  elseif kind == 'lost' then
    if redis.call('HGET', key, client) == ARGV[i + 2] then
      redis.call('HDEL', key, client)
    end
    redis.call('HDEL', key, '-')
    if is_empty() then
      turn = 2
    end
  elseif redis.call('HDEL', key, client) == 1 and is_empty() then
    turn = 2
    if kind == 'away' then
      redis.call('HSET', key, '-', '')
    end
  end
  turns[#turns + 1] = turn
end
redis.call('PEXPIRE', key, ARGV[1])
return turns
