package syncer

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

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
//	telling           goods whose shares a run is about to publish, by run
const (
	fieldHead       = "head"
	fieldInFlight   = "telling"
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
	// Rescan: all goods are to be evaluated, from ScanCursor on.
	Rescan     bool   `json:"rescan,omitempty"`
	ScanCursor string `json:"scanCursor,omitempty"`
	// IncompleteOrders counts accepted orders that did not say what they take.
	IncompleteOrders int64 `json:"short,omitempty"`
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

// page is some fields of a book as they were at one moment, and what is to be written of them.
type page struct {
	ledger.Book
	Head  Head
	write map[string][]byte
	marks []ledger.Mark
}

var errBook = errors.New("a field of the book cannot be read")

// get reads a field into v, and reports whether it exists. It returns what was put before.
func (p *page) get(field string, v any) (bool, error) {
	raw, ok := p.write[field]
	if !ok {
		raw = p.Fields[field]
	}
	if raw == nil {
		return false, nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return false, fmt.Errorf("%w: %s: %w", errBook, field, err)
	}
	return true, nil
}

func (p *page) put(field string, v any) {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("marshal a plain struct: %v", err))
	}
	p.write[field] = raw
}

func (p *page) drop(field string) {
	if p.write[field] != nil || p.Fields[field] != nil {
		p.write[field] = nil
	}
}

// pending reads a field's pending pieces, never nil.
func (p *page) pending(field string) (Pending, error) {
	all := Pending{}
	_, err := p.get(field, &all)
	return all, err
}

func (p *page) putPending(field string, all Pending) {
	if len(all) == 0 {
		p.drop(field)
		return
	}
	p.put(field, all)
}

// queue reads the goods in one field of a queue.
func (p *page) queue(kind string, i int) []string {
	raw, ok := p.write[queueField(kind, i)]
	if !ok {
		raw = p.Fields[queueField(kind, i)]
	}
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

// enqueue adds goods to a queue. Their queue fields must have been read. When a queue is full, all goods are to be
// evaluated.
func (p *page) enqueue(kind string, goods ...string) {
	for _, g := range goods {
		i := queueOf(g)
		waiting := p.queue(kind, i)
		if slices.Contains(waiting, g) {
			continue
		}
		text := strings.Join(append(waiting, g), "\n")
		if len(text) > maxQueue {
			if kind == dirtyQueue {
				p.Head.Rescan, p.Head.ScanCursor = true, ""
			}
			continue
		}
		p.write[queueField(kind, i)] = []byte(text)
		*p.bits(kind) |= 1 << i
	}
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
			p.write[queueField(kind, i)] = []byte(strings.Join(waiting, "\n"))
			continue
		}
		p.drop(queueField(kind, i))
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

// books reads and writes the books of warehouses.
type books struct {
	ledger.Books
	now      func() time.Time
	newOwner func() string
}

// update reads fields, lets change decide what to write, and writes it; it starts over when others write in between.
// A change that writes nothing only reads. After a lost answer the change may be made twice: it recognises by marks,
// or by what it reads, that it is done.
func (b *books) update(ctx context.Context, name string, fields, marks []string, change func(p *page) error) error {
	fields = append([]string{fieldHead}, fields...)
	for try := 0; ; try++ {
		read, err := b.ReadBook(ctx, name, fields, marks)
		if err != nil {
			return err
		}
		p := &page{Book: read, write: map[string][]byte{}}
		if _, err := p.get(fieldHead, &p.Head); err != nil {
			return err
		}
		was, err := json.Marshal(p.Head)
		if err != nil {
			return err
		}
		p.checkEpoch()
		if err := change(p); err != nil {
			return err
		}
		p.put(fieldHead, p.Head)
		if bytes.Equal(p.write[fieldHead], was) {
			delete(p.write, fieldHead)
		}
		if len(p.write) == 0 && len(p.marks) == 0 {
			return nil
		}
		_, err = b.WriteBook(ctx, name, ledger.BookWrite{Version: p.Version, Owner: b.newOwner(), Fields: p.write, Marks: p.marks})
		if !errors.Is(err, ledger.ErrVersion) {
			return err
		}
		if err := pause(ctx, try); err != nil {
			return fmt.Errorf("write book %s: others write all the time: %w", name, err)
		}
	}
}

// change is update for a book without a head.
func (b *books) change(ctx context.Context, name string, fields []string, change func(p *page) error) error {
	for try := 0; ; try++ {
		read, err := b.ReadBook(ctx, name, fields, nil)
		if err != nil {
			return err
		}
		p := &page{Book: read, write: map[string][]byte{}}
		if err := change(p); err != nil || len(p.write) == 0 {
			return err
		}
		_, err = b.WriteBook(ctx, name, ledger.BookWrite{Version: p.Version, Owner: b.newOwner(), Fields: p.write})
		if !errors.Is(err, ledger.ErrVersion) {
			return err
		}
		if err := pause(ctx, try); err != nil {
			return fmt.Errorf("write book %s: others write all the time: %w", name, err)
		}
	}
}

// pause lets others finish their writing.
func pause(ctx context.Context, try int) error {
	most := min(time.Millisecond<<min(try, 6), 50*time.Millisecond)
	t := time.NewTimer(rand.N(most) + 100*time.Microsecond)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// checkEpoch notes that a new epoch of the ledger began since the book was written last: it may be an older copy.
func (p *page) checkEpoch() {
	if p.Head.Epoch.Equal(p.EpochSince) {
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

// scan calls each with every field whose name begins with prefix.
func (b *books) scan(ctx context.Context, name, prefix string, each func(f ledger.Field) error) error {
	for from := ""; ; {
		fields, next, err := b.ScanBook(ctx, name, prefix, from)
		if err != nil {
			return err
		}
		for _, f := range fields {
			if err := each(f); err != nil {
				return err
			}
		}
		if next == "" {
			return nil
		}
		from = next
	}
}
