-- End of the script that publishes: the way of a publication that has something to renew, or found a stream that is not
-- as it should be. Begins inside of publish_usual.lua's last condition.
local history_life, meta_life = stamp:match(':%d+:(%d+)'), stamp:match(':(%d+)')
if is_old then
  if not is_stored then
    local text = generation .. size .. '0000000000' .. epoch .. string.format('%.0f', offset)
    redis.call('SET', KEYS[1], text, 'PX', meta_life)
  end
  return '<' .. epoch .. string.format('%.0f', offset)
end
offset = offset + 1
local text = string.format('%.0f', offset)
size = stamp:sub(17, 24)
local added = redis.pcall('XADD', KEYS[2], 'MAXLEN', tonumber(size), text, 'd', body)
if added.err then
  if not added.err:find('WRONGTYPE', 1, true) and not added.err:find('equal or smaller', 1, true) then
    return added
  end
  -- What is there belongs to another stream than the meta: it goes, and nobody may think that it was this one.
  redis.call('DEL', KEYS[2])
  if is_stored then
    epoch = stamp:sub(35, 42)
  end
  redis.call('XADD', KEYS[2], 'MAXLEN', tonumber(size), text, 'd', body)
end
position = epoch .. text
payload = 'p' .. position .. ':' .. body
redis.call('PEXPIRE', KEYS[2], history_life)
redis.call('SET', KEYS[1], generation .. size .. stamp:sub(25, 34) .. position, 'PX', meta_life)
end
redis.call('PUBLISH', KEYS[3], payload)
if KEYS[4] and ARGV[5] ~= '0' then
  redis.call('SET', KEYS[5], position, 'PX', ARGV[5])
end
return position
