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

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/seller"
	stockv1 "stockbridge/proto/stock/v1"
)

const (
	// tellFor is how long a run looks at further goods; it stays well below shareLimit.
	publishFor = 3 * time.Second
	// shareLimit is the handler's, and shareLease lasts a little longer: a run that is killed keeps the next one waiting for as
	// long. Two runs at a time would do no harm beyond telling something twice.
	shareLimit = 8 * time.Second
	shareLease = 10 * time.Second
	// mostTold and mostNames bound what one run tells: names are kept in one field of the book until they are stored.
	maxPublished = 1000
	maxNameBytes = 16 << 10
	// setupFor is how long a replica that knows an older set-up than the last one told by is taken for late. After that the
	// set-ups were put back to an older copy.
	staleSetupFor = time.Minute
)

// ShareDue tells the shares of a seller that changed. A seller that another replica is at is left to it.
func (y *Syncer) ShareDue(ctx context.Context, d *bus.Delivery, m *stockv1.ShareDue) ([]event.Event, error) {
	events, after, err := y.share(ctx, m.GetSeller())
	for _, f := range after {
		d.AfterStored(f)
	}
	return events, err
}

// share returns what to tell, and what to do when that is stored.
func (y *Syncer) share(ctx context.Context, name string) (events []event.Event, after []func(context.Context) error, err error) {
	s, ok := y.Sellers.Get(name)
	if !ok || s.InShadow(y.Now()) {
		return nil, nil, nil
	}
	owner := y.NewOwner()
	lease := "share/" + s.Name()
	mine, err := y.Ledger.Lease(ctx, lease, owner, shareLease)
	if err != nil || !mine {
		return nil, nil, err
	}
	var failures []error
	for _, w := range s.Setup.GetWarehouses() {
		until := y.Now().Add(publishFor / time.Duration(len(s.Setup.GetWarehouses())))
		t := &shareRun{Syncer: y, seller: s, warehouse: w.GetCode(), book: BookOf(s.Name(), w.GetCode()), owner: owner, until: until, spent: map[string]int64{}}
		err := t.publishShares(ctx)
		if err != nil {
			failures = append(failures, fmt.Errorf("tell shares of %s/%s: %w", s.Name(), t.warehouse, err))
		}
		if len(t.events) > 0 { // they are in the book: not to tell them now would only let the next run tell them again
			events = append(events, t.events...)
			after = append(after, t.confirm)
		}
	}
	y.Metrics.countPublished(s.Name(), len(events))
	after = append(after, func(ctx context.Context) error { return y.Ledger.Unlease(ctx, lease, owner) })
	return events, after, errors.Join(failures...)
}

// telling is one run at one warehouse of a seller.
type shareRun struct {
	*Syncer
	seller    *seller.Seller
	warehouse string
	book      string
	owner     string
	until     time.Time

	pools []seller.Pool
	// past are pools that the set-up no longer has.
	formerPools []string
	// allowance is how much may be told of each shop, spent how much was.
	allowance int64
	spent     map[string]int64
	events    []event.Event
	// names are the goods that were told, and how long they are together.
	names     []string
	nameBytes int
}

// errOlder ends the run of a replica that does not know the newest set-up yet.
var errStaleSetup = errors.New("the set-up that shares are told by is newer than the one known here")

// tell looks at what is dirty.
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
	var again map[string]string
	queued := make([]string, 0, queues)
	for i := range queues {
		queued = append(queued, queueField(dirtyQueue, i))
	}
	var dirty []string
	err = t.books.update(ctx, t.book, append(queued, fieldInFlight), nil, func(p *page) error {
		if err := t.updateHead(p); err != nil {
			return err
		}
		head, again, dirty = p.Head, map[string]string{}, nil
		for i := range queues {
			dirty = append(dirty, p.queue(dirtyQueue, i)...)
		}
		_, err := p.get(fieldInFlight, &again)
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
	// Whoever comes last in one run comes first in another.
	if n := len(dirty); n > 0 {
		at := rand.IntN(n)
		dirty = append(dirty[at:n:n], dirty[:at]...)
	}
	// What shrinks is told before what grows, of all goods.
	for _, up := range []bool{false, true} {
		if err := t.publishAll(ctx, dirty, up); err != nil {
			return err
		}
	}
	if head.Rescan {
		if err := t.rescan(ctx, head.ScanCursor); err != nil {
			return err
		}
	}
	if len(t.formerPools) == 0 {
		return nil
	}
	err = t.books.update(ctx, t.book, nil, nil, func(p *page) error {
		if !p.Head.Rescan && p.Head.Dirty == 0 { // all of them were told to be gone
			p.Head.Pools = slices.DeleteFunc(slices.Clone(p.Head.Pools), func(name string) bool { return slices.Contains(t.formerPools, name) })
		}
		return nil
	})
	return err
}

// begin brings the head up to date with the set-up.
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
		p.Head.TrackedSince = time.Time{} // orders are no longer taken off anything
	default:
		p.startTracking(t.Now())
		if until := t.seller.ShadowUntil(); until.After(p.Head.TrackedSince) {
			p.Head.TrackedSince = until // what the ERP's own program pushed before is known to the counts only
		}
	}
	return nil
}

// allowed is how much may be told of each shop now: at most a second's worth, less what the run before it took.
func (t *shareRun) allowanceNow(h Head) int64 {
	since := min(t.Now().Sub(h.PublishedAt), time.Second)
	if since < 0 { // the clock of whoever told last is ahead
		since = time.Second
	}
	return int64(t.PerSecond) * since.Milliseconds() / 1000
}

// full tells whether the run has told, or looked, enough.
func (t *shareRun) exhausted() bool {
	return len(t.events) >= maxPublished || t.nameBytes >= maxNameBytes || !t.Now().Before(t.until)
}

// step is how many goods are looked at in one write: their fields have to stay below ledger.BookWriteLimit, and what is
// written below ledger.BookWriteBytes.
func (t *shareRun) goodsPerWrite() int {
	const fields, bytes, perShop = 380, 200 << 10, 100
	shops := 0
	for _, p := range t.pools {
		shops += len(p.Shops)
	}
	return max(1, min(fields/(3+len(t.pools)+len(t.formerPools)), bytes/(perShop*max(shops, 1)), 100))
}

func (t *shareRun) publishAll(ctx context.Context, goods []string, up bool) error {
	for part := range slices.Chunk(goods, t.goodsPerWrite()) {
		if t.exhausted() {
			return nil
		}
		if err := t.publishBatch(ctx, part, up); err != nil {
			return err
		}
	}
	return nil
}

// rescan looks at all goods, some in each run.
func (t *shareRun) rescan(ctx context.Context, from string) error {
	for {
		if t.exhausted() {
			return nil
		}
		fields, next, err := t.books.ScanBook(ctx, t.book, goodsPrefix, from)
		if err != nil {
			return err
		}
		var goods []string
		for _, f := range fields {
			goods = append(goods, strings.TrimPrefix(f.Name, goodsPrefix))
		}
		// They wait like any other from now on, so that those that are not told in this run are not forgotten.
		for part := range slices.Chunk(goods, 100) {
			err := t.books.update(ctx, t.book, queueFields(dirtyQueue, part), nil, func(p *page) error {
				p.enqueue(dirtyQueue, part...)
				return nil
			})
			if err != nil {
				return err
			}
		}
		for _, up := range []bool{false, true} {
			if err := t.publishAll(ctx, goods, up); err != nil {
				return err
			}
		}
		err = t.books.update(ctx, t.book, nil, nil, func(p *page) error {
			if p.Head.Rescan && p.Head.ScanCursor == from {
				p.Head.Rescan, p.Head.ScanCursor = next != "", next
			}
			return nil
		})
		if err != nil || next == "" {
			return err
		}
		from = next
	}
}

// batch tells of some goods what shrinks, or what grows.
func (t *shareRun) publishBatch(ctx context.Context, goods []string, up bool) error {
	names := make([]string, len(goods))
	for i, no := range goods {
		names[i] = goodsPrefix + no
	}
	before, err := t.books.ReadBook(ctx, t.book, names, nil)
	if err != nil {
		return err
	}
	was := &page{Book: before}
	fields := append(append([]string{fieldInFlight}, names...), queueFields(dirtyQueue, goods)...)
	if t.seller.Setup.GetStock().GetSetAtWarehouse() {
		fields = append(fields, queueFields(setQueue, goods)...)
	}
	codes := map[string]string{}
	for _, no := range goods {
		var g Goods
		if _, err := was.get(goodsPrefix+no, &g); err != nil {
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
	for _, n := range o.names {
		t.nameBytes += len(n)
	}
	for shop, n := range o.spent {
		t.spent[shop] += n
	}
	return nil
}

// confirm says that what was about to be told is stored.
func (t *shareRun) confirm(ctx context.Context) error {
	err := t.books.update(ctx, t.book, []string{fieldInFlight}, nil, func(p *page) error {
		telling := map[string]string{}
		if _, err := p.get(fieldInFlight, &telling); err != nil {
			return err
		}
		n := len(telling)
		for _, name := range t.names {
			if telling[name] == t.owner {
				delete(telling, name)
			}
		}
		switch {
		case len(telling) == 0:
			p.drop(fieldInFlight)
		case len(telling) < n:
			p.put(fieldInFlight, telling)
		}
		return nil
	})
	return err
}

// offer is one look at some goods, and what it would tell. It is thrown away when others wrote meanwhile.
type proposal struct {
	*shareRun
	page *page
	up   bool

	events []event.Event
	names  []string
	spent  map[string]int64
}

// look decides what to tell, and puts it into the book before it is told: if a fact comes in between, it comes after.
func (o *proposal) evaluate(goods []string, codes map[string]string) error {
	telling := map[string]string{}
	if _, err := o.page.get(fieldInFlight, &telling); err != nil {
		return err
	}
	began := len(o.events)
	for _, no := range goods {
		run, again := telling[no]
		again = again && run != o.owner
		done, told, err := o.evaluateGoods(no, codes[no], again)
		if err != nil {
			return err
		}
		if told {
			telling[no] = o.owner
			o.names = append(o.names, no)
			if o.seller.Setup.GetStock().GetSetAtWarehouse() {
				o.page.enqueue(setQueue, no)
			}
		}
		if done {
			o.page.dequeue(dirtyQueue, no)
		}
	}
	if len(o.events) == began {
		return nil
	}
	o.page.put(fieldInFlight, telling)
	o.page.Head.PublishedAt = o.Now()
	for _, p := range o.pools {
		if !slices.Contains(o.page.Head.Pools, p.Name) {
			o.page.Head.Pools = append(slices.Clone(o.page.Head.Pools), p.Name)
		}
	}
	return nil
}

// goods looks at one goods. done: there is nothing more to tell of it.
func (o *proposal) evaluateGoods(no, code string, again bool) (done, told bool, err error) {
	p := o.page
	f := &facts{no: no, code: code}
	var g Goods
	if f.counted, err = p.get(goodsPrefix+no, &g); err != nil {
		return false, false, err
	}
	if g.Code != code {
		return false, false, nil // it was counted since; next time
	}
	f.at, f.saleable = g.At, g.Saleable
	for _, field := range []string{byNumber + no, byCode + code} {
		all, err := p.pending(field)
		if err != nil {
			return false, false, err
		}
		f.pending = append(f.pending, all)
	}
	// Until a count is known to contain whatever this book does not, shares may only shrink.
	trusted := f.counted && p.Head.trusts(g.At, o.Settle)
	doubtful := p.Head.Ratio != nil
	if again && (!trusted || !o.allowanceLeft(no)) {
		return false, false, nil // what was about to be told is told as a whole
	}
	done = true
	for _, pool := range o.pools {
		settled, some, err := o.evaluatePool(f, pool, trusted, doubtful, again)
		if err != nil {
			return false, false, err
		}
		done, told = done && settled, told || some
	}
	for _, name := range o.formerPools {
		settled, some, err := o.evaluatePool(f, seller.Pool{Name: name, Warehouse: o.warehouse}, true, false, again)
		if err != nil {
			return false, false, err
		}
		done, told = done && settled, told || some
	}
	return done, told, nil
}

// allFree tells whether something may be told of each shop.
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
		if _, err := o.page.get(publishedField(name, no), &known); err != nil {
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

// wish is a share to be told.
type shareChange struct {
	shop  seller.PoolShop
	share int64
	// gone: the shop is in the pool no longer.
	gone bool
}

// pool looks at one goods in one pool. Of a share that may have been told otherwise nobody knows whether it falls: with a
// doubtful ratio it waits. What was about to be told when a run died was decided before: it is told again, or less.
func (o *proposal) evaluatePool(f *facts, pool seller.Pool, trusted, doubtful, again bool) (done, some bool, err error) {
	field := publishedField(pool.Name, f.no)
	known := Published{}
	if _, err := o.page.get(field, &known); err != nil {
		return false, false, err
	}
	figure, _, _ := f.available(pool)
	var less, more []shareChange
	waits := false
	for _, s := range pool.Shops {
		share := shareOf(figure, s)
		was, ok := known[s.Code]
		lost := !ok || was.Version < o.page.Head.CertainFrom
		if doubtful && !lost {
			waits = waits || share > was.Share
			share = min(share, was.Share)
		}
		switch unsure := lost || again; {
		case lost && doubtful:
			waits = true
		case unsure && trusted:
			less = append(less, shareChange{shop: s, share: share}) // nobody knows what stands there
		case unsure: // what shrinks by the book may grow in truth
			waits = true
		case share < was.Share:
			less = append(less, shareChange{shop: s, share: share})
		case share > was.Share && !trusted:
			waits = true
		case share > was.Share:
			more = append(more, shareChange{shop: s, share: share})
		}
	}
	changed := false
	for code := range known {
		if slices.ContainsFunc(pool.Shops, func(s seller.PoolShop) bool { return s.Code == code }) {
			continue
		}
		if o.inPool(code) { // another pool tells its share from now on
			delete(known, code)
			changed = true
			continue
		}
		less = append(less, shareChange{shop: seller.PoolShop{Code: code}, gone: true})
	}
	slices.SortStableFunc(less, func(a, b shareChange) int { return strings.Compare(a.shop.Code, b.shop.Code) })
	now := less
	if o.up && len(less) == 0 {
		now, more = more, nil
	}
	left := 0
	for _, w := range now {
		if o.shareRun.spent[w.shop.Code]+o.spent[w.shop.Code] >= o.allowance {
			left++
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
		o.page.drop(field)
	default:
		o.page.put(field, known)
	}
	return left == 0 && len(more) == 0 && !waits, some, nil
}

// pooled tells whether a shop is in some pool of the warehouse.
func (o *proposal) inPool(shop string) bool {
	return slices.ContainsFunc(o.pools, func(p seller.Pool) bool {
		return slices.ContainsFunc(p.Shops, func(s seller.PoolShop) bool { return s.Code == shop })
	})
}

// say makes the event. Its version is that of the book in which the facts stood: no other run told by it.
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
