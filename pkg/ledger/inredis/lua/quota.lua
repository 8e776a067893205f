-- Before the operations on a quota, after together.lua: KEYS[1] is the pacing, calls_key the calls under way.
local calls_key = KEYS[1] .. ':calls'
