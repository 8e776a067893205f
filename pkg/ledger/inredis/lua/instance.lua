-- Follows epoch.lua. KEYS[1] holds what was chosen when the data began, ARGV[1] is that for data that begin now.
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return identify() .. ' ' .. redis.call('GET', KEYS[1])
