-- Forgets the book; ARGV[3] is for how many seconds its last version and its last owners are known all the same.
redis.call('UNLINK', fields, marks)
if redis.call('EXISTS', meta) == 1 then
  redis.call('HSET', meta, 'dropped', '1')
  redis.call('EXPIRE', meta, ARGV[3])
end
return 1
