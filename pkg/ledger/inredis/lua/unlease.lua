-- Gives KEYS[1] back when it is the owner's.
if redis.call('HGET', KEYS[1], 'owner') == a.owner then redis.call('DEL', KEYS[1]) end
return {'ok'}
