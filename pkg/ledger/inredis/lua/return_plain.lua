-- Ends a call that began at the time in the second argument. A call that already ended is no error.
load()
if ends_at(ARGV[at]) then
  end_call(ARGV[at])
  local took = math.max(now - ARGV[at + 1], 0)
  p.length = v('length') > 0 and p.length + (math.modf((took - p.length) / 8)) or took
  changed = true
end
return {'ok'}
