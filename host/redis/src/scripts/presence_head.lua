-- Common beginning of the scripts about a channel's presence.
--
-- KEYS[1] hash of client to entry, KEYS[2] sorted set of client by the time of its end, KEYS[3] hash of user to the
-- number of their clients. An entry is a version byte, the length of the user in four bytes, the user, and the rest,
-- which is no business of Redis.
local function user_of(entry)
  if #entry < 5 then
    return ''
  end
  local len = struct.unpack('>I4', entry:sub(2, 5))
  return entry:sub(6, 5 + len)
end

local function discount(user)
  if redis.call('HINCRBY', KEYS[3], user, -1) <= 0 then
    redis.call('HDEL', KEYS[3], user)
  end
end

local function remove(client)
  local entry = redis.call('HGET', KEYS[1], client)
  redis.call('ZREM', KEYS[2], client)
  if entry then
    redis.call('HDEL', KEYS[1], client)
    discount(user_of(entry))
  end
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
