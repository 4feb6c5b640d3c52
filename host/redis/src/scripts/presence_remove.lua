-- Takes clients out: ARGV.
for i = 1, #ARGV do
  remove(ARGV[i])
end
return 0
