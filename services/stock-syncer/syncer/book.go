package syncer

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"stockbridge/pkg/book"
	"stockbridge/pkg/event"
	"stockbridge/pkg/ledger"
)

// A warehouse of a seller has one book. Its fields:
//
//	head              Head
//	g/<goods>         Goods, as the last complete count found it
//	p/<goods>         Pending pieces by the warehouse's number of the goods
//	q/<code>          Pending pieces by the ERP's code, of orders that do not carry the number
//	c/<code>          the warehouse's number of the goods with the ERP's code
//	t/<pool>/<goods>  Published
//	d/<xx>, s/<xx>    queues: goods whose shares are to be evaluated, or set at the warehouse
//	`telling`         goods whose shares a run is about to publish, by run
//	raise, resend     Sweep: over all goods whose shares may grow, or are to be set at the warehouse
const (
	fieldHead       = "head"
	fieldInFlight   = "telling"
	fieldRaise      = "raise"
	fieldResend     = "resend"
	goodsPrefix     = "g/"
	byNumber        = "p/"
	byCode          = "q/"
	codePrefix      = "c/"
	publishedPrefix = "t/"
	dirtyQueue      = "d/"
	setQueue        = "s/"
)

// BookOf names the book of a seller's warehouse, by the ERP's code.
func BookOf(seller, warehouse string) string { return "stock/" + seller + "/" + event.Place(warehouse) }

// Head is what is known of a warehouse as a whole.
type Head struct {
	// Epoch is the ledger's epoch in which the book was written last. In another one it may be an older copy, which
	// lacks orders that were accepted and shares that were published.
	Epoch time.Time `json:"born,omitzero"`
	// TrackedSince: the book knows every order accepted since. Counts are used when they began long enough after it.
	TrackedSince time.Time `json:"from,omitzero"`
	// CertainFrom: what was published under an earlier version of the book may have been published otherwise since.
	CertainFrom uint64 `json:"toldFrom,omitempty"`
	// Seen is when the warehouse was first to be counted.
	Seen time.Time `json:"seen,omitzero"`
	// Counted is when the last complete count began, CountedTo when it ended; CountID names it.
	Counted   time.Time `json:"counted,omitzero"`
	CountedTo time.Time `json:"countedTo,omitzero"`
	CountID   string    `json:"countID,omitempty"`
	// Setup is the version of the set-up that shares are computed by, SetupAt when it was first seen.
	Setup   uint64    `json:"setup,omitempty"`
	SetupAt time.Time `json:"setupAt,omitzero"`
	// Ratio is a change of a ratio at the warehouse that was not answered yet, neither by other ratios in the set-up
	// nor by ConfirmRatios. Meanwhile shares fall but do not rise.
	Ratio *RatioChange `json:"ratio,omitempty"`
	// Ratios are those of the pools, RatiosAt since when they count: a change from before is answered.
	Ratios   string    `json:"ratios,omitempty"`
	RatiosAt time.Time `json:"ratiosAt,omitzero"`
	// CountRequest is an operator's request for a count, nil when there is none.
	CountRequest *CountRequest `json:"asked,omitempty"`
	// Pools are those of which shares were published.
	Pools []string `json:"pools,omitempty"`
	// PublishedAt is when shares were published last.
	PublishedAt time.Time `json:"toldAt,omitzero"`
	// Dirty and Set are bits: which queues of either kind hold goods.
	Dirty uint64 `json:"dirty,omitempty"`
	Set   uint64 `json:"set,omitempty"`
	// Rescan: all goods are to be evaluated, from ScanCursor on; what grows is left to the sweep in fieldRaise.
	Rescan     bool   `json:"rescan,omitempty"`
	ScanCursor string `json:"scanCursor,omitempty"`
	// IncompleteOrders counts accepted orders that did not say what they take.
	IncompleteOrders int64 `json:"short,omitempty"`
}

// Sweep is a pass over all goods of a warehouse that is done some goods at a time. It stands in a field of its own: builds
// that do not know it leave it alone.
type Sweep struct {
	// Active: it is under way, at Cursor. Again: when it has come to its end it begins anew.
	Active bool   `json:"active,omitempty"`
	Cursor string `json:"cursor,omitempty"`
	Again  bool   `json:"again,omitempty"`
	// Unanswered: goods that wait for an answer to Head.Ratio are in no queue.
	Unanswered bool `json:"unanswered,omitempty"`
}

// begin has every kind of goods passed from now on.
func (s *Sweep) begin() {
	s.Again = s.Active && s.Cursor != ""
	s.Active = true
}

// advance goes on from one place to the next; "" is the end.
func (s *Sweep) advance(from, next string) {
	if !s.Active || s.Cursor != from {
		return
	}
	if s.Cursor = next; next == "" {
		s.Active, s.Again = s.Again, false
	}
}

// sweep reads a sweep whose field was read.
func (p *page) sweep(field string) (s Sweep, err error) {
	_, err = p.Get(field, &s)
	return s, err
}

func (p *page) putSweep(field string, s Sweep) {
	if s == (Sweep{}) {
		p.Drop(field)
		return
	}
	p.Put(field, s)
}

// RatioChange is a row of the stock flow that says that a shop's ratio was changed at the warehouse.
type RatioChange struct {
	At      time.Time `json:"at"`
	ShopNo  string    `json:"shopNo"`
	GoodsNo string    `json:"goodsNo"`
	FlowNo  string    `json:"flowNo"`
}

// CountRequest is who wants a count, and since when.
type CountRequest struct {
	By string    `json:"by"`
	At time.Time `json:"at"`
}

// Goods is what a complete count found of one kind of goods. Zero when it did not find it.
type Goods struct {
	Code     string `json:"code,omitempty"`
	Total    int64  `json:"total"`
	Saleable int64  `json:"saleable"`
	// At is when the count began.
	At time.Time `json:"at"`
	// Kinds are the conditions in which it was found.
	Kinds []string `json:"kinds,omitempty"`
}

// Pending are pieces of accepted orders that a count need not contain yet, by the ERP's shop. AllPools stands for
// orders of any shop.
type Pending map[string][]Batch

// AllPools holds pieces that are too many to be kept apart. They are taken off every pool.
const AllPools = "*"

// Batch is pieces of orders that were accepted by At, Unix seconds.
type Batch struct {
	At     int64 `json:"t"`
	Pieces int64 `json:"n"`
}

const (
	// batchSeconds is how finely acceptances are kept apart. They count as accepted at the end of their batch: too
	// late is the safe side.
	batchSeconds = 5
	// maxBatches is the most batches of one kind of goods. Beyond it, neighbours are merged.
	maxBatches = 100
)

// add adds pieces that were accepted at.
func (p Pending) add(shop string, at time.Time, pieces int64) {
	until := (at.Unix()/batchSeconds + 1) * batchSeconds
	i, found := slices.BinarySearchFunc(p[shop], until, func(b Batch, t int64) int { return cmp.Compare(b.At, t) })
	if found {
		p[shop][i].Pieces += pieces
		return
	}
	p[shop] = slices.Insert(p[shop], i, Batch{until, pieces})
	n := 0
	for _, batches := range p {
		n += len(batches)
	}
	if n <= maxBatches {
		return
	}
	for s, batches := range p {
		p[s] = coarser(batches)
	}
	if len(p) > maxBatches/2 {
		all := Pending{}
		for _, batches := range p {
			for _, b := range batches {
				all.add(AllPools, time.Unix(b.At-1, 0), b.Pieces)
			}
		}
		clear(p)
		p[AllPools] = all[AllPools]
	}
}

// coarser merges each two batches, with the later time.
func coarser(batches []Batch) []Batch {
	var half []Batch
	for i, b := range batches {
		if i%2 == 1 {
			half[len(half)-1] = Batch{b.At, half[len(half)-1].Pieces + b.Pieces}
		} else {
			half = append(half, b)
		}
	}
	return half
}

// dropCounted drops what a count that began at counted contains: everything that was accepted settle before it.
func (p Pending) dropCounted(counted time.Time, settle time.Duration) {
	before := counted.Add(-settle).Unix()
	for shop, batches := range p {
		batches = slices.DeleteFunc(batches, func(b Batch) bool { return b.At <= before })
		if p[shop] = batches; len(batches) == 0 {
			delete(p, shop)
		}
	}
}

// of is how many pieces of shop are pending.
func (p Pending) of(shop string) int64 {
	n := int64(0)
	for _, b := range p[shop] {
		n += b.Pieces
	}
	return n
}

// Published is what was published last of some goods, by the ERP's shop of the pool.
type Published map[string]PublishedShare

// PublishedShare is a share that was published, and under which version.
type PublishedShare struct {
	Share   int64  `json:"n"`
	Version uint64 `json:"v"`
}

func publishedField(pool, goods string) string { return publishedPrefix + pool + "/" + goods }

// queues is how many fields a queue has: one bit each in Head.
const queues = 64

// maxQueue is the most bytes of one queue field: all of them, with what else is written, stay below
// ledger.BookWriteBytes.
const maxQueue = 4 << 10

func queueOf(goods string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(goods))
	return int(h.Sum32() % queues)
}

func queueField(kind string, i int) string { return fmt.Sprintf("%s%02x", kind, i) }

// page is a transaction over a warehouse's book, its head read.
type page struct {
	*book.Tx
	Head Head
}

// pending reads a field's pending pieces, never nil.
func (p *page) pending(field string) (Pending, error) {
	all := Pending{}
	_, err := p.Get(field, &all)
	return all, err
}

func (p *page) putPending(field string, all Pending) {
	if len(all) == 0 {
		p.Drop(field)
		return
	}
	p.Put(field, all)
}

// queue reads the goods in one field of a queue.
func (p *page) queue(kind string, i int) []string {
	raw := p.Value(queueField(kind, i))
	if len(raw) == 0 {
		return nil
	}
	return strings.Split(string(raw), "\n")
}

func (p *page) bits(kind string) *uint64 {
	if kind == setQueue {
		return &p.Head.Set
	}
	return &p.Head.Dirty
}

// enqueue adds goods to a queue. Their queue fields must have been read. It reports whether there was room: when a queue
// is full, all goods are to be evaluated, or set.
func (p *page) enqueue(kind string, goods ...string) (fits bool) {
	fits = true
	for _, g := range goods {
		i := queueOf(g)
		waiting := p.queue(kind, i)
		if slices.Contains(waiting, g) {
			continue
		}
		text := strings.Join(append(waiting, g), "\n")
		if len(text) > maxQueue {
			fits = false
			continue
		}
		p.Set(queueField(kind, i), []byte(text))
		*p.bits(kind) |= 1 << i
	}
	if !fits && kind == dirtyQueue {
		p.Head.Rescan, p.Head.ScanCursor = true, ""
	}
	return fits
}

// dequeue removes goods from a queue.
func (p *page) dequeue(kind string, goods ...string) {
	for _, g := range goods {
		i := queueOf(g)
		waiting := p.queue(kind, i)
		j := slices.Index(waiting, g)
		if j < 0 {
			continue
		}
		if waiting = slices.Delete(waiting, j, j+1); len(waiting) > 0 {
			p.Set(queueField(kind, i), []byte(strings.Join(waiting, "\n")))
			continue
		}
		p.Drop(queueField(kind, i))
		*p.bits(kind) &^= 1 << i
	}
}

// queueFields names the queue fields that hold goods.
func queueFields(kind string, goods []string) []string {
	var fields []string
	for _, g := range goods {
		if f := queueField(kind, queueOf(g)); !slices.Contains(fields, f) {
			fields = append(fields, f)
		}
	}
	return fields
}

// books are the books of warehouses.
type books struct {
	ledger.Books
	now func() time.Time
}

// update is book.Update over the book of a warehouse: its head is read, checked against the ledger's epoch, and written when
// change or that check changed it.
func (b *books) update(ctx context.Context, name string, fields, marks []string, change func(p *page) error) error {
	return book.Update(ctx, b.Books, name, append([]string{fieldHead}, fields...), marks, func(t *book.Tx) error {
		p := &page{Tx: t}
		if _, err := p.Get(fieldHead, &p.Head); err != nil {
			return err
		}
		before, err := json.Marshal(p.Head)
		if err != nil {
			return err
		}
		p.checkEpoch()
		if err := change(p); err != nil {
			return err
		}
		if p.Put(fieldHead, p.Head); bytes.Equal(p.Value(fieldHead), before) {
			p.Keep(fieldHead)
		}
		return nil
	})
}

// atLeast is how many goods someGoods returns, unless there are no more.
const atLeast = 100

// someGoods returns the numbers of some goods of a warehouse, as ledger.Books.ScanBook does.
func (b *books) someGoods(ctx context.Context, name, from string) (goods []string, next string, err error) {
	for len(goods) < atLeast {
		var fields []ledger.Field
		if fields, from, err = b.ScanBook(ctx, name, goodsPrefix, from); err != nil {
			return nil, "", err
		}
		for _, f := range fields {
			goods = append(goods, strings.TrimPrefix(f.Name, goodsPrefix))
		}
		if from == "" {
			break
		}
	}
	return goods, from, nil
}

// checkEpoch notes that a new epoch of the ledger began since the book was written last: it may be an older copy.
func (p *page) checkEpoch() {
	if !p.MayBeOlder(p.Head.Epoch) {
		return
	}
	if p.Version == 0 || p.Head.Epoch.IsZero() {
		p.Head.Epoch = p.EpochSince
		return
	}
	p.Head.Epoch, p.Head.CertainFrom = p.EpochSince, p.Version+1
	if p.EpochSince.After(p.Head.TrackedSince) && !p.Head.TrackedSince.IsZero() {
		p.Head.TrackedSince = p.EpochSince
	}
	p.Head.Rescan, p.Head.ScanCursor = true, ""
}
