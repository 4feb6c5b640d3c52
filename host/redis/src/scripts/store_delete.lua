-- Takes a key away, and answers 1 if there was one.
local there = 0
if held(key) then
  there = 1
end
remove(key)
tidy()
return there
