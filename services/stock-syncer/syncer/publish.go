package syncer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/book"
	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/seller"
	sellerv1 "stockbridge/proto/seller/v1"
	stockv1 "stockbridge/proto/stock/v1"
)

const (
	// publishFor is how long a run evaluates further goods; it stays well below shareLimit.
	publishFor = 3 * time.Second
	// shareLimit is the handler's limit, and shareLease lasts a little longer: a run that is killed delays the next
	// one that long. Two runs at a time would do no harm beyond publishing something twice.
	shareLimit = 8 * time.Second
	shareLease = 10 * time.Second
	// maxPublished and maxNameBytes bound what one run publishes: names are kept in one field of the book until they
	// are stored.
	maxPublished = 1000
	maxNameBytes = 24 << 10
	// maxLeft is how many goods that a shop takes no more shares of a run comes across before it ends.
	maxLeft = 200
	// manyDirty is from how many waiting goods on those that only grow are left to the sweep: evaluated with every run,
	// they would take more of it than what is published.
	manyDirty = 2000
	// staleSetupFor is how long a replica that knows an older set-up than the last one used counts as late. After
	// that the set-ups were restored to an older copy.
	staleSetupFor = time.Minute
)

// ShareDue publishes the shares of a seller that changed. It does nothing while another replica is at the seller.
func (y *Syncer) ShareDue(ctx context.Context, d *bus.Delivery, m *stockv1.ShareDue) ([]event.Event, error) {
	events, after, err := y.share(ctx, m.GetSeller())
	for _, f := range after {
		d.AfterStored(f)
	}
	return events, err
}

// share returns what to publish, and what to do when that is stored.
func (y *Syncer) share(ctx context.Context, name string) (events []event.Event, after []func(context.Context) error, err error) {
	s, ok := y.Sellers.Get(name)
	if !ok || s.InShadow(y.Now()) {
		return nil, nil, nil
	}
	var due []*sellerv1.Warehouse
	for _, w := range s.Setup.GetWarehouses() {
		idle, err := y.nothingToShare(ctx, s, w.GetCode())
		if err != nil {
			return nil, nil, err
		}
		if !idle {
			due = append(due, w)
		}
	}
	if len(due) == 0 {
		return nil, nil, nil
	}
	owner := y.NewOwner()
	lease := "share/" + s.Name()
	mine, err := y.Ledger.Lease(ctx, lease, owner, shareLease)
	if err != nil || !mine {
		return nil, nil, err
	}
	var failures []error
	for _, w := range due {
		until := y.Now().Add(publishFor / time.Duration(len(due)))
		t := &shareRun{Syncer: y, seller: s, warehouse: w.GetCode(), book: BookOf(s.Name(), w.GetCode()), owner: owner, until: until, spent: map[string]int64{}}
		err := t.publishShares(ctx)
		if err != nil {
			failures = append(failures, fmt.Errorf("publish shares of %s/%s: %w", s.Name(), t.warehouse, err))
		}
		if len(t.events) > 0 { // the book already has them: keeping them back would only have the next run publish them again
			events = append(events, t.events...)
			after = append(after, t.confirm)
		}
	}
	y.Metrics.Published.Add(float64(len(events)))
	after = append(after, func(ctx context.Context) error { return y.Ledger.Unlease(ctx, lease, owner) })
	return events, after, errors.Join(failures...)
}

// nothingToShare reports whether a tick finds nothing to do at a warehouse, in one round trip: most ticks do.
func (y *Syncer) nothingToShare(ctx context.Context, s *seller.Seller, code string) (bool, error) {
	t, err := book.Read(ctx, y.books, BookOf(s.Name(), code), []string{fieldHead, fieldInFlight, fieldRaise}, nil)
	if err != nil {
		return false, err
	}
	pools := s.Pools(code)
	if t.Version == 0 {
		return len(pools) == 0, nil
	}
	p := &page{Tx: t}
	if _, err := p.Get(fieldHead, &p.Head); err != nil {
		return false, err
	}
	raise, err := p.sweep(fieldRaise)
	if err != nil {
		return false, err
	}
	h := &p.Head
	switch {
	case p.MayBeOlder(h.Epoch), h.Setup != s.Version, h.SetupAt.IsZero(), h.TrackedSince.IsZero() != (len(pools) == 0),
		len(pools) > 0 && s.ShadowUntil().After(h.TrackedSince),
		h.Dirty != 0, h.Rescan, raise.Active, raise.Unanswered && h.Ratio == nil, p.Value(fieldInFlight) != nil:
		return false, nil
	}
	return !slices.ContainsFunc(h.Pools, func(name string) bool {
		return !slices.ContainsFunc(pools, func(p seller.Pool) bool { return p.Name == name })
	}), nil
}

// shareRun is one run at one warehouse of a seller.
type shareRun struct {
	*Syncer
	seller    *seller.Seller
	warehouse string
	book      string
	owner     string
	until     time.Time

	pools []seller.Pool
	// formerPools are pools that the set-up no longer has.
	formerPools []string
	// allowance is how many shares may be published of each shop, spent how many were.
	allowance int64
	spent     map[string]int64
	events    []event.Event
	// names are the goods that were published.
	names []string
	// left is how many goods were met that a shop takes no more shares of. many: so many goods wait that those that only
	// grow are left to the sweep.
	left int
	many bool
}

// errStaleSetup ends the run of a replica that does not know the newest set-up yet.
var errStaleSetup = errors.New("the set-up that shares are computed by is newer than the one known here")

// publishShares evaluates the dirty goods.
func (t *shareRun) publishShares(ctx context.Context) error {
	t.pools = t.seller.Pools(t.warehouse)
	first, err := t.books.ReadBook(ctx, t.book, []string{fieldHead}, nil)
	if err != nil {
		return err
	}
	if first.Version == 0 && len(t.pools) == 0 {
		return nil
	}
	var head Head
	var raise Sweep
	var again map[string]string
	queued := make([]string, 0, queues)
	for i := range queues {
		queued = append(queued, queueField(dirtyQueue, i))
	}
	var dirty []string
	err = t.books.update(ctx, t.book, append(queued, fieldInFlight, fieldRaise), nil, func(p *page) error {
		if err := t.updateHead(p); err != nil {
			return err
		}
		if raise, err = p.sweep(fieldRaise); err != nil {
			return err
		}
		if raise.Unanswered && p.Head.Ratio == nil {
			raise.Unanswered = false
			p.Head.Rescan, p.Head.ScanCursor = true, ""
			p.putSweep(fieldRaise, raise)
		}
		head, again, dirty = p.Head, map[string]string{}, nil
		for i := range queues {
			dirty = append(dirty, p.queue(dirtyQueue, i)...)
		}
		_, err := p.Get(fieldInFlight, &again)
		return err
	})
	if errors.Is(err, errStaleSetup) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range head.Pools {
		if !slices.ContainsFunc(t.pools, func(p seller.Pool) bool { return p.Name == name }) {
			t.formerPools = append(t.formerPools, name)
		}
	}
	if len(t.pools)+len(t.formerPools) == 0 {
		return nil
	}
	for name := range again {
		if !slices.Contains(dirty, name) {
			dirty = append(dirty, name)
		}
	}
	t.allowance = t.allowanceNow(head)
	// Start at a random place, so that the last of one run is the first of another.
	if n := len(dirty); n > 0 {
		at := rand.IntN(n)
		dirty = append(dirty[at:n:n], dirty[:at]...)
	}
	// Publish what shrinks before what grows, of all goods.
	t.many = len(dirty) > manyDirty
	if _, err := t.publishAll(ctx, dirty, false); err != nil {
		return err
	}
	if head.Rescan {
		if err := t.sweep(ctx, head.ScanCursor, false); err != nil {
			return err
		}
	}
	if t.exhausted() {
		return nil
	}
	t.left = 0
	if !t.many {
		if _, err := t.publishAll(ctx, dirty, true); err != nil {
			return err
		}
	}
	if t.many || head.Rescan { // this run may have begun it
		if raise, err = t.readRaise(ctx); err != nil {
			return err
		}
	}
	if raise.Active {
		if err := t.sweep(ctx, raise.Cursor, true); err != nil {
			return err
		}
	}
	if len(t.formerPools) == 0 {
		return nil
	}
	err = t.books.update(ctx, t.book, nil, nil, func(p *page) error {
		if !p.Head.Rescan && p.Head.Dirty == 0 { // their end was published to all shops
			p.Head.Pools = slices.DeleteFunc(slices.Clone(p.Head.Pools), func(name string) bool { return slices.Contains(t.formerPools, name) })
		}
		return nil
	})
	return err
}

func (t *shareRun) readRaise(ctx context.Context) (Sweep, error) {
	read, err := book.Read(ctx, t.books, t.book, []string{fieldRaise}, nil)
	if err != nil {
		return Sweep{}, err
	}
	return (&page{Tx: read}).sweep(fieldRaise)
}

// updateHead brings the head up to date with the set-up.
func (t *shareRun) updateHead(p *page) error {
	switch h := &p.Head; {
	case t.seller.Version < h.Setup && t.Now().Sub(h.SetupAt) < staleSetupFor:
		return errStaleSetup
	case t.seller.Version != h.Setup || h.SetupAt.IsZero():
		h.Setup, h.SetupAt = t.seller.Version, t.Now()
		h.Rescan, h.ScanCursor = true, ""
		h.useRatios(t.pools, t.Now())
	}
	switch {
	case len(t.pools) == 0:
		p.Head.TrackedSince = time.Time{} // orders are no longer taken off any share
	default:
		p.startTracking(t.Now())
		if until := t.seller.ShadowUntil(); until.After(p.Head.TrackedSince) {
			p.Head.TrackedSince = until // only counts contain what the ERP's own program pushed before
		}
	}
	return nil
}

// allowanceNow is how many shares may be published of each shop now: at most a second's worth, less what the run
// before it took.
func (t *shareRun) allowanceNow(h Head) int64 {
	since := min(t.Now().Sub(h.PublishedAt), time.Second)
	if since < 0 { // the clock of the last publisher is ahead
		since = time.Second
	}
	return int64(t.PerSecond) * since.Milliseconds() / 1000
}

// exhausted reports whether the run has published, or evaluated, enough.
func (t *shareRun) exhausted() bool {
	return len(t.events) >= maxPublished || t.left >= maxLeft || !t.Now().Before(t.until)
}

// goodsPerWrite is how many goods are evaluated in one write: their fields have to stay below ledger.BookWriteLimit,
// and the written bytes below ledger.BookWriteBytes.
func (t *shareRun) goodsPerWrite() int {
	const fields, bytes, perShop = 380, 200 << 10, 100
	shops := 0
	for _, p := range t.pools {
		shops += len(p.Shops)
	}
	return max(1, min(fields/(3+len(t.pools)+len(t.formerPools)), bytes/(perShop*max(shops, 1)), 100))
}

// publishAll evaluates goods. It returns false when some were left to a later run, because this one published or lasted
// long enough.
func (t *shareRun) publishAll(ctx context.Context, goods []string, up bool) (all bool, err error) {
	left := t.left
	for part := range slices.Chunk(goods, t.goodsPerWrite()) {
		if t.exhausted() {
			return false, nil
		}
		if err := t.publishBatch(ctx, part, up); err != nil {
			return false, err
		}
	}
	return t.left == left, nil
}

// sweep evaluates all goods from a place on: what shrinks, or else what grows.
//
// # Why
//
// It goes no further than what could be published: goods behind it need no place in a queue, which could not hold all
// goods of a large warehouse, and none is evaluated again and again while others are published. Goods that wait for a
// count are passed: that count has them evaluated again.
func (t *shareRun) sweep(ctx context.Context, from string, up bool) error {
	for !t.exhausted() {
		goods, next, err := t.books.someGoods(ctx, t.book, from)
		if err != nil {
			return err
		}
		if all, err := t.publishAll(ctx, goods, up); err != nil || !all {
			return err
		}
		err = t.books.update(ctx, t.book, []string{fieldRaise}, nil, func(p *page) error {
			raise, err := p.sweep(fieldRaise)
			if err != nil {
				return err
			}
			switch {
			case up:
				raise.advance(from, next)
			case p.Head.Rescan && p.Head.ScanCursor == from:
				if p.Head.Rescan, p.Head.ScanCursor = next != "", next; next == "" {
					raise.begin()
				}
			}
			p.putSweep(fieldRaise, raise)
			return nil
		})
		if err != nil || next == "" {
			return err
		}
		from = next
	}
	return nil
}

// publishBatch publishes what shrinks, or what grows, of some goods.
func (t *shareRun) publishBatch(ctx context.Context, goods []string, up bool) error {
	names := make([]string, len(goods))
	for i, no := range goods {
		names[i] = goodsPrefix + no
	}
	was, err := book.Read(ctx, t.books, t.book, names, nil)
	if err != nil {
		return err
	}
	fields := append(append([]string{fieldInFlight, fieldRaise}, names...), queueFields(dirtyQueue, goods)...)
	if t.seller.Setup.GetStock().GetSetAtWarehouse() {
		fields = append(append(fields, fieldResend), queueFields(setQueue, goods)...)
	}
	codes := map[string]string{}
	for _, no := range goods {
		var g Goods
		if _, err := was.Get(goodsPrefix+no, &g); err != nil {
			return err
		}
		fields = append(fields, byNumber+no)
		if codes[no] = g.Code; g.Code != "" {
			fields = append(fields, byCode+g.Code)
		}
		for _, p := range t.pools {
			fields = append(fields, publishedField(p.Name, no))
		}
		for _, name := range t.formerPools {
			fields = append(fields, publishedField(name, no))
		}
	}
	var o *proposal
	err = t.books.update(ctx, t.book, fields, nil, func(p *page) error {
		if p.Head.Setup != t.seller.Version {
			return errStaleSetup
		}
		o = &proposal{shareRun: t, page: p, up: up, spent: map[string]int64{}}
		return o.evaluate(goods, codes)
	})
	if errors.Is(err, errStaleSetup) {
		return nil
	}
	if err != nil || o == nil {
		return err
	}
	t.events = append(t.events, o.events...)
	t.names = append(t.names, o.names...)
	t.left += o.left
	for shop, n := range o.spent {
		t.spent[shop] += n
	}
	return nil
}

// confirm records that what was about to be published is stored.
func (t *shareRun) confirm(ctx context.Context) error {
	err := t.books.update(ctx, t.book, []string{fieldInFlight}, nil, func(p *page) error {
		inFlight := map[string]string{}
		if _, err := p.Get(fieldInFlight, &inFlight); err != nil {
			return err
		}
		n := len(inFlight)
		for _, name := range t.names {
			if inFlight[name] == t.owner {
				delete(inFlight, name)
			}
		}
		switch {
		case len(inFlight) == 0:
			p.Drop(fieldInFlight)
		case len(inFlight) < n:
			p.Put(fieldInFlight, inFlight)
		}
		return nil
	})
	return err
}

// proposal is one evaluation of some goods, and what it would publish. It is discarded when others wrote meanwhile.
type proposal struct {
	*shareRun
	page *page
	up   bool

	events []event.Event
	names  []string
	spent  map[string]int64
	// left is how many goods have more to be published than their shops take now.
	left int
}

// unfinished says why goods are not done with.
type unfinished struct {
	// left: a shop takes no more shares now. grows: something is to grow, once all that shrinks is published. waits: for
	// a count, or for an answer to a changed ratio.
	left, grows, waits bool
}

func (u unfinished) or(v unfinished) unfinished {
	return unfinished{u.left || v.left, u.grows || v.grows, u.waits || v.waits}
}

// evaluate decides what to publish, and writes it into the book first: a fact that arrives in between comes after it.
func (o *proposal) evaluate(goods []string, codes map[string]string) error {
	inFlight := map[string]string{}
	if _, err := o.page.Get(fieldInFlight, &inFlight); err != nil {
		return err
	}
	began, size := len(o.events), len(o.page.Value(fieldInFlight))
	later, resend := Sweep{}, false
	for _, no := range goods {
		run, again := inFlight[no]
		if entry := len(no) + len(o.owner) + 8; !again {
			if size += entry; size > maxNameBytes { // what a run is about to publish is kept in one field
				o.left++
				continue
			}
		}
		rest, published, err := o.evaluateGoods(no, codes[no], again && run != o.owner)
		if err != nil {
			return err
		}
		if published {
			inFlight[no] = o.owner
			o.names = append(o.names, no)
			if o.seller.Setup.GetStock().GetSetAtWarehouse() {
				resend = !o.page.enqueue(setQueue, no) || resend
			}
		} else if !again {
			size -= len(no) + len(o.owner) + 8
		}
		if rest.left {
			o.left++
		}
		later.Unanswered = later.Unanswered || rest.waits && o.page.Head.Ratio != nil
		if o.many && !o.up && !rest.left {
			later.Active, rest = later.Active || rest.grows, unfinished{}
		}
		if rest == (unfinished{}) {
			o.page.dequeue(dirtyQueue, no)
		}
	}
	if err := o.leaveToSweeps(later, resend); err != nil || len(o.events) == began {
		return err
	}
	o.page.Put(fieldInFlight, inFlight)
	o.page.Head.PublishedAt = o.Now()
	for _, p := range o.pools {
		if !slices.Contains(o.page.Head.Pools, p.Name) {
			o.page.Head.Pools = append(slices.Clone(o.page.Head.Pools), p.Name)
		}
	}
	return nil
}

// leaveToSweeps begins the sweeps that goods of this proposal are left to.
func (o *proposal) leaveToSweeps(later Sweep, resend bool) error {
	if later.Active || later.Unanswered {
		raise, err := o.page.sweep(fieldRaise)
		if err != nil {
			return err
		}
		was := raise
		if raise.Unanswered = raise.Unanswered || later.Unanswered; later.Active {
			raise.begin()
		}
		if raise != was {
			o.page.putSweep(fieldRaise, raise)
		}
	}
	if resend {
		again, err := o.page.sweep(fieldResend)
		if err != nil {
			return err
		}
		again.begin()
		o.page.putSweep(fieldResend, again)
	}
	return nil
}

// evaluateGoods evaluates one kind of goods, and returns what is left to publish of it.
func (o *proposal) evaluateGoods(no, code string, again bool) (rest unfinished, published bool, err error) {
	p := o.page
	f := &facts{no: no, code: code}
	var g Goods
	if f.counted, err = p.Get(goodsPrefix+no, &g); err != nil {
		return rest, false, err
	}
	if g.Code != code {
		return unfinished{left: true}, false, nil // counted since; the next run evaluates it
	}
	f.at, f.saleable = g.At, g.Saleable
	for _, field := range []string{byNumber + no, byCode + code} {
		all, err := p.pending(field)
		if err != nil {
			return rest, false, err
		}
		f.pending = append(f.pending, all)
	}
	// Until a count is known to contain what this book lacks, shares may only shrink.
	trusted := f.counted && p.Head.trusts(g.At, o.Settle)
	c := certainty{trusted: trusted, doubtful: p.Head.Ratio != nil, again: again, from: p.Head.CertainFrom}
	switch { // what was about to be published is published as a whole
	case again && !trusted:
		return unfinished{waits: true}, false, nil
	case again && !o.allowanceLeft(no):
		return unfinished{left: true}, false, nil
	}
	add := func(pool seller.Pool, c certainty) error {
		of, some, err := o.evaluatePool(f, pool, c)
		rest, published = rest.or(of), published || some
		return err
	}
	for _, pool := range o.pools {
		if err := add(pool, c); err != nil {
			return rest, false, err
		}
	}
	for _, name := range o.formerPools { // what nobody shares any longer is withdrawn, whatever is known
		c := certainty{trusted: true, again: again, from: p.Head.CertainFrom}
		if err := add(seller.Pool{Name: name, Warehouse: o.warehouse}, c); err != nil {
			return rest, false, err
		}
	}
	return rest, published, nil
}

// allowanceLeft reports whether a share may be published of each shop.
func (o *proposal) allowanceLeft(no string) bool {
	free := func(shop string) bool { return o.shareRun.spent[shop]+o.spent[shop] < o.allowance }
	for _, pool := range o.pools {
		for _, s := range pool.Shops {
			if !free(s.Code) {
				return false
			}
		}
	}
	for _, name := range o.formerPools {
		known := Published{}
		if _, err := o.page.Get(publishedField(name, no), &known); err != nil {
			return false
		}
		for shop := range known {
			if !free(shop) {
				return false
			}
		}
	}
	return true
}

// evaluatePool evaluates one kind of goods in one pool.
func (o *proposal) evaluatePool(f *facts, pool seller.Pool, c certainty) (rest unfinished, some bool, err error) {
	field := publishedField(pool.Name, f.no)
	known := Published{}
	if _, err := o.page.Get(field, &known); err != nil {
		return rest, false, err
	}
	less, more, waits := decideShares(f, pool, known, c)
	moved, gone := formerShops(pool, o.pools, known)
	for _, code := range moved {
		delete(known, code)
	}
	changed := len(moved) > 0
	less = append(less, gone...)
	slices.SortStableFunc(less, func(a, b shareChange) int { return strings.Compare(a.shop.Code, b.shop.Code) })
	now := less
	if o.up && len(less) == 0 {
		now, more = more, nil
	}
	rest = unfinished{grows: len(more) > 0, waits: waits}
	for _, w := range now {
		if o.shareRun.spent[w.shop.Code]+o.spent[w.shop.Code] >= o.allowance {
			rest.left = true
			continue
		}
		o.spent[w.shop.Code]++
		o.publish(f, pool, w)
		changed, some = true, true
		if w.gone {
			delete(known, w.shop.Code)
		} else {
			known[w.shop.Code] = PublishedShare{Share: w.share, Version: o.page.Version}
		}
	}
	switch {
	case !changed:
	case len(known) == 0:
		o.page.Drop(field)
	default:
		o.page.Put(field, known)
	}
	return rest, some, nil
}

// publish makes the event. Its version is that of the book in which the facts were read: no other run published by
// it.
func (o *proposal) publish(f *facts, pool seller.Pool, w shareChange) {
	now := o.Now()
	m := &stockv1.ShareChanged{
		Seller: o.seller.Name(), Warehouse: o.warehouse, Pool: pool.Name, Shop: w.shop.Code, GoodsNo: f.no, GoodsCode: f.code,
		At: timestamppb.New(now), Share: w.share, Version: o.page.Version,
	}
	if !w.gone {
		m.Basis = f.basis(pool, w.shop)
	}
	key := strings.Join([]string{o.warehouse, w.shop.Code, f.no}, "/")
	o.events = append(o.events, event.StockShareChanged.About(o.seller.Name(), key, now, m, fmt.Sprint(m.Version)))
}
