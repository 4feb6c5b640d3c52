-- Changes the sessions of a user; answers for each change two numbers: 0, or 1 if there was no session before it, or 2
-- if there is none after it, and the moment of the user's last coming or going.
--
-- KEYS[1] hash of client to the time of its entry, a space and its value; under '-' what is known of the user: 'here',
-- 'away' (without a session, and still there) or 'gone'; the moment of the last coming or going; whose it was. ARGV[1]
-- life in milliseconds, [2] that of a user who has gone, then kind, client and value, in turns.
local key = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function exact(number)
  return string.format('%.0f', number)
end
local known = redis.call('HGET', key, '-')
local state, moment, cause = string.match(known or '', '^(%a+) (%d+) (%S*)$')
moment = tonumber(moment or 0)
local num = redis.call('HLEN', key) - (known and 1 or 0)

local function parts(line)
  local at = string.match(line, '^(%d+) ')
  if at then
    return tonumber(at), string.sub(line, #at + 2)
  end
  return now, line
end

-- Who was not entered anew for a life is nobody's any more. A few at a time: whoever is there is entered anew three
-- times in a life, and each time others are looked at.
if num > 1 then
  local some = redis.call('HRANDFIELD', key, 8, 'WITHVALUES')
  for i = 1, #some, 2 do
    if some[i] ~= '-' and now - parts(some[i + 1]) > tonumber(ARGV[1]) then
      num = num - redis.call('HDEL', key, some[i])
    end
  end
end

local function becomes(new_state, client)
  state, cause, moment = new_state, client, math.max(now, moment + 1)
end

local function came(kind, client, value)
  local turn = 0
  if num == 0 and state == 'away' then
    state, cause = 'here', ''
  elseif num == 0 then
    becomes('here', client)
    turn = 1
  elseif kind == 'again' and state == 'here' and cause == client then
    turn = 1
  end
  num = num + redis.call('HSET', key, client, exact(now) .. ' ' .. value)
  return turn
end

local function ended(kind, client, value)
  local removed = 0
  if kind == 'lost' then
    local line = redis.call('HGET', key, client)
    if line and select(2, parts(line)) == value then
      removed = redis.call('HDEL', key, client)
    end
  elseif kind ~= 'settle' then
    removed = redis.call('HDEL', key, client)
  end
  num = num - removed
  if num > 0 then
    return 0
  end
  -- Without a session before, and whoever brought that about is answered.
  local was_over = removed == 0 and (state == 'away' or state == 'gone')
  if was_over and cause ~= client then
    return 0
  end
  if kind == 'away' and not was_over then
    state, cause = 'away', client
  elseif kind ~= 'away' and not (was_over and state == 'gone') then
    becomes('gone', client)
  end
  return 2
end

local turns = {}
for i = 3, #ARGV, 3 do
  local kind, client, value = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if kind == 'came' or kind == 'again' then
    turns[#turns + 1] = came(kind, client, value)
  else
    turns[#turns + 1] = ended(kind, client, value)
  end
  turns[#turns + 1] = moment
end
if state then
  local now_known = state .. ' ' .. exact(moment) .. ' ' .. cause
  if now_known ~= known then
    redis.call('HSET', key, '-', now_known)
  end
end
redis.call('PEXPIRE', key, (num > 0 or state == 'away') and ARGV[1] or ARGV[2])
return turns
