-- KEYS[1]: the list of sellers. ARGV: the time that take_due gave them, and sellers of which nothing is followed. One
-- whose time changed since has something again.
for i = 2, #ARGV do
  if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[i])) == tonumber(ARGV[1]) then redis.call('ZREM', KEYS[1], ARGV[i]) end
end
return 0
