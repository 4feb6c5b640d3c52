-- Common beginning of the scripts about a stream: its position now, a new epoch where it needs one.
--
-- KEYS[1] meta, KEYS[2] stream. ARGV[1] stamp: generation of the server as the node knows it (16 digits), the time in
-- seconds (10), the epoch in case a new one is needed (8 letters). The meta is the same three and the top offset; its
-- time is that of the last publication that renewed the life of stream and meta.
--
-- Everything is written with few calls and without functions, since each costs Redis a part of a microsecond.
local stamp = ARGV[1]
local meta = redis.pcall('GET', KEYS[1])
local generation, epoch, offset
local is_stored = false
if type(meta) == 'string' then
  generation, epoch, offset = meta:sub(1, 16), meta:sub(27, 34), tonumber(meta:sub(35))
  is_stored = offset ~= nil
end
if not is_stored then
  -- Never used, expired, evicted or overwritten by somebody: another stream begins. What is left of the old one goes,
  -- so that nobody reads it as entries of this one, and the first publication need not change the epoch that a reader
  -- has been told.
  generation, epoch, offset = stamp:sub(1, 16), stamp:sub(27, 34), 0
  -- Only what is there: after its first write a script may go on although Redis is out of memory.
  if redis.call('EXISTS', KEYS[2]) == 1 then
    redis.call('DEL', KEYS[2])
  end
elseif generation ~= stamp:sub(1, 16) then
  -- The contents may be older than what this server once acknowledged, or the node's knowledge is.
  local now = redis.call('INFO', 'replication'):match('master_replid:(%x+)'):sub(1, 16)
  if now ~= generation then
    -- What is there stays; that nobody takes it for the stream that was is what counts.
    generation, epoch, is_stored = now, stamp:sub(27, 34), false
  end
end
