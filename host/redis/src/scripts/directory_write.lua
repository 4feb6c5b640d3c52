-- Writes lines into a node's book, which outlives the node's last heartbeat and last line by so long.
--
-- KEYS[1] the book: slot to value. ARGV[1] life in milliseconds, then slot and value, in turns.
for i = 2, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 0
