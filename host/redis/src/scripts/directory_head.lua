-- Common beginning of the scripts about the nodes of the directory.
--
-- KEYS[1] sorted set of node: the time of its last heartbeat in milliseconds; for one that was taken for dead, and for
-- one whose book is closed, the time of that plus the number below, so that ranges tell the three apart.
local CONDEMNED = 1e15
local RETIRED = 2e15
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function exact(number)
  return string.format('%.0f', number)
end
