-- Gives KEYS[1] back when it is ARGV[1]'s.
if redis.call('HGET', KEYS[1], 'owner') == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
