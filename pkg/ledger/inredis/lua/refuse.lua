-- args: kind no owner reason detail
-- The warehouse has nothing. Returns {'ok'} or {'lost'}.
local e = load()
if done(e, 'refused') then return {'ok'} end
if not mine(e) then return {'lost'} end
e.state, e.how, e.reason = 'refused', 'refused', a.reason
e.denied, e.looks, e.doubt, e.told, e.prior, e.prior_identity, e.sure, e.fresh, e['until'] = '', '', '', '', '', '', '', '', ''
free_lines(e)
remember(e, 'refused', a.detail)
save(e)
return {'ok'}
