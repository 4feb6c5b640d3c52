-- Common beginning of the scripts about what a plugin keeps.
--
-- KEYS[1] hash of key to entry, KEYS[2] sorted set of key by the time of its end. An entry is 'v' and a value, or a
-- count in digits. The field without a name holds what all of them cost; no key of a plugin has that name.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- The end of what has none: the largest number that is exact here.
local NEVER = 9007199254740991

-- What the key holds, unless it is over.
local function held(key)
  local entry = redis.call('HGET', KEYS[1], key)
  if not entry then
    return false
  end
  local ends = redis.call('ZSCORE', KEYS[2], key)
  if not ends or tonumber(ends) <= now then
    return false
  end
  return entry
end

local function is_value(entry)
  return entry:byte(1) == 118
end
