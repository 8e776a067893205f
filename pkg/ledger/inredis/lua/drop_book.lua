-- Forgets the book; its last version and owners stay known for ARGV[3] seconds.
redis.call('UNLINK', fields, marks)
if redis.call('EXISTS', meta) == 1 then
  redis.call('HSET', meta, 'dropped', '1')
  redis.call('EXPIRE', meta, ARGV[3])
end
return 1
