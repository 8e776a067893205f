-- args: kind no owner hash order lines revision shop warehouse stream seq trace identity platforms number cleaned following due
-- The warehouse has it under a.number. Returns {'ok'}, {'taken', the document that has the number} or {'twice', the
-- number it was accepted under before}.
local e = load()
if e.number == a.number and (e.state == 'accepted' or e.state == 'cancelled') then return {'ok'} end
local by = numbered(a.kind, a.no, a.number, a.identity)
if by then return {'taken', by} end
if e.state == 'accepted' then
  remember(e, 'accepted', a.number)
  save(e)
  return {'twice', e.number}
end
e.state, e.number, e.cleaned = 'accepted', a.number, a.cleaned
e.hash, e.order, e.lines = a.hash, a.order, a.lines
e.revision, e.shop, e.warehouse, e.platforms = a.revision, a.shop, a.warehouse, a.platforms
if is(a.trace) then e.trace = a.trace end
if is(a.identity) then e.identity = a.identity end
e.following, e.due, e.waybills = a.following, a.due, ''
e.owner, e.how = a.owner, 'accepted'
e.reason, e.denied, e.looks, e.doubt, e.told, e.prior, e.prior_identity, e.sure, e.fresh, e['until'] = '', '', '', '', '', '', '', '', '', ''
local lines = list(a.lines)
take_lines(e, lines, holders(a.order, lines))
remember(e, 'accepted', a.number)
save(e)
return {'ok'}
