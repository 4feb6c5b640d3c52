-- Adds to a counter and answers the count as text. ARGV[4] its life, ARGV[5] what to add.
local before = held(key)
if not before then
  local refusal = put(ARGV[5], tonumber(ARGV[4]))
  if refusal ~= DONE then
    return refusal
  end
  return ARGV[5]
end
if is_value(before) then
  return HOLDS_VALUE
end
-- Redis counts in 64 bits and refuses what goes beyond; a number here would not hold them.
if type(redis.pcall('HINCRBY', KEYS[1], key, ARGV[5])) == 'table' then
  local limit = '9223372036854775807'
  if ARGV[5]:byte(1) == 45 then
    limit = '-9223372036854775808'
  end
  redis.call('HSET', KEYS[1], key, limit)
end
return redis.call('HGET', KEYS[1], key)
