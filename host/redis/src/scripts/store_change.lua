-- Common middle of the scripts that change something. ARGV[1] most keys, ARGV[2] most bytes, ARGV[3] the key.
local DONE, HOLDS_COUNTER, HOLDS_VALUE, TOO_MANY, TOO_MUCH, DIFFERS = 0, 1, 2, 3, 4, 5
local key = ARGV[3]

-- Where one of the two has gone by itself (evicted, deleted) the other is no longer true: all begins anew.
if redis.call('EXISTS', KEYS[1], KEYS[2]) == 1 then
  redis.call('DEL', KEYS[1], KEYS[2])
end

local function cost(name, entry)
  if is_value(entry) then
    return 127 + #name + #entry
  end
  return 136 + #name
end

local function remove(name)
  local entry = redis.call('HGET', KEYS[1], name)
  redis.call('ZREM', KEYS[2], name)
  if entry then
    redis.call('HDEL', KEYS[1], name)
    redis.call('HINCRBY', KEYS[1], '', -cost(name, entry))
  end
end

-- Takes some of those away that are over; how many.
local function expire(most)
  local over = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now), 'LIMIT', 0, most)
  for i = 1, #over do
    remove(over[i])
  end
  return #over
end

-- What there is of both goes when the last key has gone.
local function tidy()
  if redis.call('ZCARD', KEYS[2]) == 0 then
    redis.call('DEL', KEYS[1], KEYS[2])
  end
end

-- What all would cost with this entry, or why it may not be.
local function room(entry)
  local before = redis.call('HGET', KEYS[1], key)
  if not before and redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[1]) then
    return nil, TOO_MANY
  end
  local bytes = tonumber(redis.call('HGET', KEYS[1], '') or '0') + cost(key, entry)
  if before then
    bytes = bytes - cost(key, before)
  end
  if bytes > tonumber(ARGV[2]) then
    return nil, TOO_MUCH
  end
  return bytes
end

-- Puts an entry in its place, to live for so many milliseconds, 0 for ever.
local function put(entry, life)
  local bytes, refusal = room(entry)
  if not bytes and expire(64) > 0 then
    bytes, refusal = room(entry)
  end
  if not bytes then
    tidy()
    return refusal
  end
  tidy()
  local whole = redis.call('PTTL', KEYS[1])
  redis.call('HSET', KEYS[1], key, entry, '', string.format('%.0f', bytes))
  local ends = NEVER
  if life > 0 then
    ends = now + life
  end
  redis.call('ZADD', KEYS[2], string.format('%.0f', ends), key)
  -- Both go by themselves after the last end, unless something has none; a second later, so that no key outlives
  -- the number of its end.
  if life == 0 then
    if whole >= 0 then
      redis.call('PERSIST', KEYS[1])
      redis.call('PERSIST', KEYS[2])
    end
  elseif whole == -2 or whole >= 0 and whole < life + 1000 then
    redis.call('PEXPIRE', KEYS[1], life + 1000)
    redis.call('PEXPIRE', KEYS[2], life + 1000)
  end
  return DONE
end

expire(4)
