-- Keeps a value if the key holds another. ARGV[4] its life, ARGV[5] the entry, ARGV[6] the other one or nothing.
local before = held(key) or ''
if before ~= '' and not is_value(before) then
  return HOLDS_COUNTER
end
if before ~= ARGV[6] then
  tidy()
  return DIFFERS
end
return put(ARGV[5], tonumber(ARGV[4]))
