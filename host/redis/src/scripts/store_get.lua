-- What the key ARGV[1] holds.
return held(ARGV[1])
