-- Takes lines out of a node's book that say just this.
--
-- KEYS[1] the book: slot to value. ARGV slot and value, in turns.
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
    redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
return 0
