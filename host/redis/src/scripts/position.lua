-- Common part of the scripts about a stream: its position now, a new epoch where it needs one.
--
-- KEYS[1] meta, KEYS[2] stream. ARGV[1] stamp: generation of the server as the node knows it (16 digits), the number of
-- entries to keep (8), the term, which is the time in pieces of a part of the stream's life (10), the epoch in case a
-- new one is needed (8 letters). The meta is the same four and the top offset; its term is that of the last publication
-- that renewed the life of stream and meta.
local stamp = ARGV[1]
local meta = redis.pcall('GET', KEYS[1])
local generation, size, epoch, offset
local is_stored = false
if type(meta) == 'string' then
  generation, size, epoch, offset = meta:sub(1, 16), meta:sub(17, 24), meta:sub(35, 42), tonumber(meta:sub(43))
  is_stored = offset ~= nil
end
if not is_stored then
  -- Never used, expired, evicted or overwritten by somebody: another stream begins. What is left of the old one goes,
  -- so that nobody reads it as entries of this one, and the first publication need not change the epoch that a reader
  -- has been told.
  generation, size, epoch, offset = stamp:sub(1, 16), '00000000', stamp:sub(35, 42), 0
  -- Only what is there: after its first write a script may go on although Redis is out of memory.
  if redis.call('EXISTS', KEYS[2]) == 1 then
    redis.call('DEL', KEYS[2])
  end
elseif generation ~= stamp:sub(1, 16) then
  -- The contents may be older than what this server once acknowledged, or the node's knowledge is.
  local now = redis.call('INFO', 'replication'):match('master_replid:(%x+)'):sub(1, 16)
  if now ~= generation then
    -- What is there stays; that nobody takes it for the stream that was is what counts.
    generation, epoch, is_stored = now, stamp:sub(35, 42), false
  end
end
