-- args: owner ttl
-- Takes or extends KEYS[1] for the owner. Returns {'held'}, or {'taken'} when another holds it.
local holder, till = unpack(redis.call('HMGET', KEYS[1], 'owner', 'until'))
if holder and holder ~= a.owner and now < tonumber(till) then return {'taken'} end
redis.call('HSET', KEYS[1], 'owner', a.owner, 'until', text(now + a.ttl))
redis.call('PEXPIRE', KEYS[1], math.ceil(a.ttl / 1000) + 60000)
return {'held'}
