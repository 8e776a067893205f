-- args: id from
-- Ends a call that began at `from`. A call that already ended is no error.
load()
if ends_at(a.id) then
  end_call(a.id)
  local took = math.max(now - a.from, 0)
  p.length = v('length') > 0 and p.length + (math.modf((took - p.length) / 8)) or took
  changed = true
end
return {'ok'}
