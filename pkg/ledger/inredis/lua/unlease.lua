-- args: owner
-- Returns the lease KEYS[1] when it is the owner's.
if redis.call('HGET', KEYS[1], 'owner') == a.owner then redis.call('DEL', KEYS[1]) end
return {'ok'}
