-- Keeps a value. ARGV[4] its life, ARGV[5] the entry.
local before = held(key)
if before and not is_value(before) then
  return HOLDS_COUNTER
end
return put(ARGV[5], tonumber(ARGV[4]))
