// Package stock keeps our books of shops' stock at a warehouse: for each place a balance series per kind of goods,
// the time that was read, and how far planning got.
//
// A place is a warehouse and the warehouse's number of a shop. Its rows (each one movement of one kind of goods) may
// be applied in any order and any number of times: the book remembers their numbers, and its series come out the
// same. Missing rows show as a Gap, where the warehouse gives the balances before and after each row.
//
// The book is a projection of the streams STOCK and VMI: it can be dropped and rebuilt from them. The package knows
// the ledger's Books, which hold it, and neither the bus nor the warehouse.
//
// # Why
//
// A figure is not carried from row to row. It is the balance before the earliest row plus the sum of all changes,
// because rows of one second come in any order, windows are read in any order, and late rows fall between others. The
// unlinked balances show that none is missing: the earliest start and the latest end are always among them, and any
// other two are a gap.
//
// Rows are linked per balance as brackets close, by time. If it were enough that each balance is entered as often as
// it is left, two missing rows (a sale, and a later return) would hide each other.
package stock

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"stockbridge/pkg/book"
	"stockbridge/pkg/event"
	"stockbridge/pkg/ledger"
)

// Place is where stock lies.
type Place struct {
	Seller string
	// Warehouse is the ERP's code, ShopNo the warehouse's number of the shop.
	Warehouse, ShopNo string
}

func (p Place) String() string { return p.Seller + "/" + p.Warehouse + "/" + p.ShopNo }

// Token names the place in a subject and in ids.
func (p Place) Token() string { return event.Place(p.Warehouse, p.ShopNo) }

// Book returns the name of the place's book.
func (p Place) Book() string { return "vmi/" + p.Seller + "/" + p.Token() }

// Row is a row of the stock flow, as the book applies it.
type Row struct {
	Movement
	GoodsNo, GoodsCode string
}

// State is what a book knows besides its series.
type State struct {
	// Plan is how far planning got.
	Plan Plan `json:"plan"`
	// Head says up to where the book is known to contain the streams.
	Head Head `json:"head"`
	// Read is the time that was read, for all goods.
	Read Coverage `json:"read,omitempty"`
	// Broken is how many goods had gaps when gaps were last searched for.
	Broken int `json:"broken,omitempty"`
	// Epoch is the ledger's, when the state was read.
	Epoch time.Time `json:"-"`
}

// MayBeOlder reports whether the book may be an older copy: its Head was written in another epoch of the ledger, or never.
func (s State) MayBeOlder() bool { return book.MayBeOlder(s.Head.Epoch, s.Epoch) }

// Plan is how far planning got, in seconds of Unix time; zero: nothing yet.
type Plan struct {
	// Start is the first second that is read at all. Until is the last second for which a window was published,
	// SecondUntil the last one for which a second look was.
	Start       int64 `json:"start,omitempty"`
	Until       int64 `json:"next,omitempty"`
	SecondUntil int64 `json:"second,omitempty"`
	// Flow is the warehouse's method that reads the time from SwitchedAt on. Earlier time was read by another method,
	// which numbers rows differently; 0: there was none.
	Flow       int32 `json:"flow,omitempty"`
	SwitchedAt int64 `json:"turned,omitempty"`
}

// Positions are positions in the streams STOCK and VMI.
type Positions struct {
	Stock Position `json:"stock"`
	VMI   Position `json:"vmi"`
}

// Position is a message of a stream; a zero Seq is before the first.
type Position struct {
	Seq uint64 `json:"seq,omitempty"`
	// At is when the message was stored: a stream that was restored and has grown since holds another message under
	// the number.
	At time.Time `json:"at"`
}

// Head says up to where a book is known to contain what the streams hold of its place.
type Head struct {
	// Epoch is the ledger's. Under another one the book may be an older copy.
	Epoch time.Time `json:"birth"`
	// Complete is up to where the book contains everything. Next, which was observed at Seen, becomes Complete once
	// no run of that time is under way any longer.
	Complete Positions `json:"sure"`
	Next     Positions `json:"next"`
	Seen     time.Time `json:"seen"`
	// Tail is the latest position that the book may contain anything of: a stream that ends before it was restored.
	Tail Positions `json:"tail"`
	// NewSince is when the place's first book was created: it holds the marks of all rows ever published, as long as
	// none can have been forgotten. Zero for a book that was rebuilt.
	NewSince time.Time `json:"new,omitzero"`
	// Rebuilding is how far a rebuild got that is under way in the epoch RebuildEpoch.
	Rebuilding   Positions `json:"making"`
	RebuildEpoch time.Time `json:"made"`
}

// Batch is what is applied together. Any part of it may have been applied before.
type Batch struct {
	Rows []Row
	// Read are intervals that were read to their end; Consistent, by goods, are those of which all rows were read and
	// link up.
	Read       []Interval
	Consistent map[string]Interval
	// Done are names of other things that were done, e.g. gaps that were published.
	Done []string
	// Tail is where the streams ended when all of it was stored; zero where that does not matter.
	Tail Positions
}

// Later returns the later of two positions.
func (p Position) Later(o Position) Position {
	if o.Seq > p.Seq {
		return o
	}
	return p
}

// Store applies rows to books. It may be used by many goroutines.
type Store struct {
	Books ledger.Books
	// Now dates marks, which are kept for a time; time.Now when nil.
	Now func() time.Time
}

const (
	stateField = "state"
	// seriesPrefix fields hold series by goods; brokenPrefix fields name those that are not proved.
	seriesPrefix = "g/"
	brokenPrefix = "b/"

	// rowsPerWrite is bound by two fields per row at most, and the state.
	rowsPerWrite = (ledger.BookWriteLimit - 2) / 2
	// writeBytes leaves room for marks and the state.
	writeBytes = ledger.BookWriteBytes - 128<<10
)

// errLarge: it does not fit into one write.
var errLarge = errors.New("too much for one write")

func (s *Store) now() time.Time {
	if s.Now == nil {
		return time.Now()
	}
	return s.Now()
}

// markName is the mark of a row's number or of something done.
func markName(name string) string {
	if len(name) <= ledger.MaxMark {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:])
}

// Known reports which of these row numbers, or names of things done, were applied.
func (s *Store) Known(ctx context.Context, p Place, names []string) (map[string]bool, error) {
	known := map[string]bool{}
	for some := range slices.Chunk(names, ledger.BookWriteLimit) {
		marks := make([]string, len(some))
		for i, name := range some {
			marks[i] = markName(name)
		}
		b, err := s.Books.ReadBook(ctx, p.Book(), nil, marks)
		if err != nil {
			return nil, fmt.Errorf("look up rows of %s: %w", p, err)
		}
		for i, name := range some {
			if b.Marked[marks[i]] {
				known[name] = true
			}
		}
	}
	return known, nil
}

// Series reads the series of some goods; those of which nothing is known are empty.
func (s *Store) Series(ctx context.Context, p Place, goods []string) (map[string]*Series, error) {
	found := map[string]*Series{}
	for some := range slices.Chunk(goods, ledger.BookWriteLimit) {
		fields := make([]string, len(some))
		for i, no := range some {
			fields[i] = seriesPrefix + no
		}
		b, err := s.Books.ReadBook(ctx, p.Book(), fields, nil)
		if err != nil {
			return nil, fmt.Errorf("read the series of %s: %w", p, err)
		}
		for _, no := range some {
			if found[no], err = decode(b.Fields[seriesPrefix+no]); err != nil {
				return nil, fmt.Errorf("read the series of %s at %s: %w", no, p, err)
			}
		}
	}
	return found, nil
}

// State reads the state of a place's book.
func (s *Store) State(ctx context.Context, p Place) (st State, err error) {
	t, err := book.Read(ctx, s.Books, p.Book(), []string{stateField}, nil)
	if err != nil {
		return State{}, err
	}
	_, err = t.Get(stateField, &st)
	st.Epoch = t.EpochSince
	return st, err
}

// NewOverview reads the states of many places' books, without Epoch.
func NewOverview(books ledger.Books) *book.Overview[State] {
	return book.NewOverview[State](books, stateField)
}

// UpdateState changes a place's state: change gets the current state and reports whether to write it. It is called again
// when somebody else wrote in between.
func (s *Store) UpdateState(ctx context.Context, p Place, change func(*State) bool) error {
	return book.Update(ctx, s.Books, p.Book(), []string{stateField}, nil, func(t *book.Tx) error {
		var st State
		if _, err := t.Get(stateField, &st); err != nil || !change(&st) {
			return err
		}
		t.Put(stateField, st)
		return nil
	})
}

// Apply applies what the book does not contain yet, and returns how many rows that were.
func (s *Store) Apply(ctx context.Context, p Place, batch Batch) (applied int, err error) {
	parts := slices.Collect(slices.Chunk(batch.Rows, rowsPerWrite))
	if len(parts) == 0 {
		parts = [][]Row{nil}
	}
	for i, rows := range parts {
		part := Batch{Rows: rows}
		if i == len(parts)-1 { // an interval is read when all its rows are in the book
			part.Read, part.Consistent, part.Done = batch.Read, batch.Consistent, batch.Done
		}
		if i == 0 { // before any row is applied: from then on its loss must show
			part.Tail = batch.Tail
		}
		n, err := s.applyPart(ctx, p, part)
		if err != nil {
			return applied, fmt.Errorf("apply rows to the book of %s: %w", p, err)
		}
		applied += n
	}
	return applied, nil
}

// applyPart applies rows that fit one write by number, in several writes where they do not fit by size.
func (s *Store) applyPart(ctx context.Context, p Place, part Batch) (int, error) {
	n, err := s.apply(ctx, p, part)
	if half := len(part.Rows) / 2; errors.Is(err, errLarge) && half > 0 {
		first, second := Batch{Rows: part.Rows[:half], Tail: part.Tail}, part
		second.Rows, second.Tail = part.Rows[half:], Positions{}
		if n, err = s.applyPart(ctx, p, first); err == nil {
			var more int
			more, err = s.applyPart(ctx, p, second)
			n += more
		}
	}
	return n, err
}

func (s *Store) apply(ctx context.Context, p Place, batch Batch) (applied int, err error) {
	var fields, marks []string
	seen := map[string]bool{}
	want := func(goods string) {
		if !seen[goods] {
			seen[goods] = true
			fields = append(fields, seriesPrefix+goods)
		}
	}
	for _, r := range batch.Rows {
		want(r.GoodsNo)
		marks = append(marks, markName(r.No))
	}
	for goods := range batch.Consistent {
		want(goods)
	}
	if len(fields)+len(batch.Done)+len(batch.Read) == 0 {
		return 0, nil
	}
	states := len(batch.Read) > 0 || batch.Tail != (Positions{})
	if states {
		fields = append(fields, stateField)
	}
	err = book.Update(ctx, s.Books, p.Book(), fields, marks, func(t *book.Tx) error {
		applied = 0
		changed := map[string]*Series{}
		series := func(goods string) (*Series, error) {
			if c := changed[goods]; c != nil {
				return c, nil
			}
			c, err := decode(t.Fields[seriesPrefix+goods])
			if err != nil {
				return nil, fmt.Errorf("series of %s: %w", goods, err)
			}
			changed[goods] = c
			return c, nil
		}
		for _, r := range batch.Rows {
			mark := markName(r.No)
			if t.Marked[mark] {
				continue
			}
			t.Mark(mark, s.now())
			c, err := series(r.GoodsNo)
			if err != nil {
				return err
			}
			c.Add(r.Movement)
			if r.GoodsCode != "" {
				c.Code = r.GoodsCode
			}
			applied++
		}
		for goods, interval := range batch.Consistent {
			c, err := series(goods)
			if err != nil {
				return err
			}
			c.LinkWithin(interval)
		}
		for _, name := range batch.Done {
			t.Mark(markName(name), s.now())
		}
		size := 0
		for goods, c := range changed {
			data := c.encode()
			if len(data) > ledger.MaxField {
				c.markUnproved()
				data = c.encode()
			}
			if size += len(data) + 2*len(goods); size > writeBytes && len(batch.Rows) > 1 {
				return errLarge
			}
			t.Set(seriesPrefix+goods, data)
			t.Set(brokenPrefix+goods, nil)
			if _, proof := c.Figure(); proof == Broken {
				t.Set(brokenPrefix+goods, []byte{'1'})
			}
		}
		if !states || len(changed)+len(batch.Done)+len(batch.Read) == 0 {
			return nil
		}
		var st State
		if _, err := t.Get(stateField, &st); err != nil {
			return err
		}
		st.Head.Tail.Stock, st.Head.Tail.VMI = st.Head.Tail.Stock.Later(batch.Tail.Stock), st.Head.Tail.VMI.Later(batch.Tail.VMI)
		for _, interval := range batch.Read {
			st.Read = st.Read.With(interval)
		}
		t.Put(stateField, st)
		return nil
	})
	return applied, err
}

// Drop deletes the book of a place with its marks. It is to be rebuilt from the streams.
func (s *Store) Drop(ctx context.Context, p Place) error {
	if err := s.Books.DropBook(ctx, p.Book()); err != nil {
		return fmt.Errorf("drop the book of %s: %w", p, err)
	}
	return nil
}

// Figure is what the book says of one kind of goods.
type Figure struct {
	GoodsNo, GoodsCode string
	Num                int64
	Proof              Proof
	// Rows is how many rows made it, Last the time of the latest.
	Rows int64
	Last time.Time
	// Gaps are where rows are missing.
	Gaps []Gap
}

func figureOf(goods string, c *Series) Figure {
	num, proof := c.Figure()
	return Figure{
		GoodsNo: goods, GoodsCode: c.Code, Num: num, Proof: proof, Rows: c.Rows, Last: time.Unix(c.Last, 0).UTC(), Gaps: c.Gaps(),
	}
}

// Figures returns some figures of a place, in any order. Begin with from = "" and continue with next until it is "".
// A figure may come twice.
func (s *Store) Figures(ctx context.Context, p Place, from string) (figures []Figure, next string, err error) {
	fields, next, err := s.Books.ScanBook(ctx, p.Book(), seriesPrefix, from)
	if err != nil {
		return nil, "", fmt.Errorf("list the book of %s: %w", p, err)
	}
	for _, f := range fields {
		goods := strings.TrimPrefix(f.Name, seriesPrefix)
		c, err := decode(f.Value)
		if err != nil {
			return nil, "", fmt.Errorf("read the series of %s at %s: %w", goods, p, err)
		}
		figures = append(figures, figureOf(goods, c))
	}
	return figures, next, nil
}

// Figure returns the figure of one kind of goods; Rows is 0 when nothing is known of it.
func (s *Store) Figure(ctx context.Context, p Place, goods string) (Figure, error) {
	c, err := s.Series(ctx, p, []string{goods})
	if err != nil {
		return Figure{}, err
	}
	return figureOf(goods, c[goods]), nil
}

// Broken returns the gaps of some goods of a place, in any order. Begin with from = "" and continue with next until
// it is "". Goods may come twice.
func (s *Store) Broken(ctx context.Context, p Place, from string) (gaps map[string][]Gap, next string, err error) {
	fields, next, err := s.Books.ScanBook(ctx, p.Book(), brokenPrefix, from)
	if err != nil {
		return nil, "", fmt.Errorf("list gaps of %s: %w", p, err)
	}
	var names []string
	for _, f := range fields {
		names = append(names, strings.TrimPrefix(f.Name, brokenPrefix))
	}
	found, err := s.Series(ctx, p, names)
	if err != nil {
		return nil, "", err
	}
	gaps = map[string][]Gap{}
	for no, c := range found {
		if h := c.Gaps(); len(h) > 0 {
			gaps[no] = h
		}
	}
	return gaps, next, nil
}

// CountBroken counts the goods of a place with gaps, up to most.
func (s *Store) CountBroken(ctx context.Context, p Place, most int) (int, error) {
	goods := map[string]bool{}
	enough := errors.New("enough")
	err := book.Scan(ctx, s.Books, p.Book(), brokenPrefix, func(f ledger.Field) error {
		if goods[f.Name] = true; len(goods) >= most {
			return enough
		}
		return nil
	})
	if err != nil && !errors.Is(err, enough) {
		return 0, fmt.Errorf("count gaps of %s: %w", p, err)
	}
	return len(goods), nil
}
