package syncer

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"stockbridge/pkg/book"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/warehouse"
	stockv1 "stockbridge/proto/stock/v1"
)

// A scan has a book of its own, named as its lease:
//
//	scan        scan
//	s/<number>  rows, or goods that are gone, as encodeRows writes them
//
// Builds before it was one that survives shifting pages kept theirs in other fields of the same book. They and this one
// do not read each other's: who finds none begins anew, and drops the other's.
const fieldScan = "scan"

func rowsField(i int) string { return fmt.Sprintf("s/%06d", i) }

const (
	// rowsKept is from how many rows on a run stores them: it holds no more.
	rowsKept = 1000
	// rowsPerField and rowsBytes bound one field of rows, fieldsPerWrite the fields of one write.
	rowsPerField   = 100
	rowsBytes      = ledger.MaxField - 2<<10
	fieldsPerWrite = 10
	// fieldsPerRead is how many fields of rows are read at a time.
	fieldsPerRead = 20
	// maxPasses is how many passes may lack rows before a scan is left to the next tick.
	maxPasses = 4
	// maxScanAge is how long a scan may stand still: an older one was abandoned.
	maxScanAge = time.Hour
)

// scan is a pass, or several, through all pages of a warehouse's stock, kept between runs.
//
// # Why
//
// Pages are numbered, so a row that disappears while they are read moves all others up, and the first of the next page
// is missed. Mostly the number of rows shows it: then the pages are read again from where the moved rows begin. Where
// another row appeared at the same time it does not show. Then something that the last count had seems to be gone, and
// the scan is repeated, as for the very first count: only what both passes lack is gone. What only one of them has was
// there after the count began.
//
// Beginning anew with every shift would never end for a warehouse of tens of thousands of goods: some of them sell out
// in the minutes that its pages take.
type scan struct {
	Began time.Time `json:"began"`
	// At is when it was stored last.
	At time.Time `json:"at,omitzero"`
	// Pass counts the passes, Short those in a row that lacked rows. Whole: one before this came to its end.
	Pass  int  `json:"pass"`
	Short int  `json:"short,omitempty"`
	Whole bool `json:"whole,omitempty"`
	// Next is the page to read, Calls how many of this pass were read.
	Next  int `json:"next"`
	Calls int `json:"calls,omitempty"`
	// Size is how many rows a page has, Total how many rows there are; 0: the warehouse does not say.
	Size  int `json:"size,omitempty"`
	Total int `json:"total,omitempty"`
	// Seen is how many rows from the first on were read, as they are numbered now. Least is how many there must be at
	// least in the end: as many as the pass began with, less those that disappeared.
	Seen  int `json:"seen,omitempty"`
	Least int `json:"least,omitempty"`
	// Fields is how many fields of rows are stored.
	Fields int `json:"fields"`
	// Parts is in how many events the count is published, 0 while pages are read; Published is how many of them are
	// stored. Bounds are the numbers of the goods with which each partsPerRun of them begin. Ended is when the last page
	// was read.
	Parts     int       `json:"parts,omitempty"`
	Published int       `json:"published,omitempty"`
	Bounds    []string  `json:"bounds,omitempty"`
	Ended     time.Time `json:"ended,omitzero"`

	// version is the book's; rows are those of this run that are not stored yet.
	version uint64
	rows    []warehouse.StockRow
}

// id names a count.
func (w *scan) id() string { return w.Began.UTC().Format("20060102T150405.000Z") }

// abandoned reports whether nobody continued the scan for long.
func (w *scan) abandoned(now time.Time) bool { return now.Sub(w.At) > maxScanAge }

// bounds returns the numbers of the goods that the next parts begin with, and those after them; "" is no bound.
func (w *scan) bounds() (from, to string) {
	switch i := w.Published / partsPerRun; {
	case i+1 < len(w.Bounds):
		return w.Bounds[i], w.Bounds[i+1]
	case i < len(w.Bounds):
		return w.Bounds[i], ""
	default:
		return "", ""
	}
}

// restart begins another pass.
func (w *scan) restart() {
	w.Pass, w.Next, w.Calls, w.Size, w.Total, w.Seen, w.Least = w.Pass+1, 1, 0, 0, 0, 0, 0
}

// errShifted: rows moved between pages as often as they were read.
var errShifted = errors.New("the warehouse's stock moved between its pages each time they were read; the next tick starts over")

// add adds the page Next, and turns to the one to read after it. end: it was the last one.
func (w *scan) add(p warehouse.StockPage) (shifted, end bool, err error) {
	w.rows = append(w.rows, p.Rows...)
	if w.Calls++; w.Calls == 1 {
		w.Size, w.Total, w.Least = len(p.Rows), p.Total, p.Total
	}
	if most := 3*(w.Total/max(w.Size, 1)+1) + 10; w.Total > 0 && w.Calls > most {
		return false, false, errShifted
	}
	if w.Total == 0 || w.Size == 0 { // only rows show whether some are missing
		w.Next++
		return false, p.Last, nil
	}
	if len(p.Rows) == 0 {
		if w.Seen >= w.Least || w.Next == 1 {
			return false, true, nil
		}
		w.Next-- // as many rows disappeared as this page had: some of them stand on the one before now
		return true, false, nil
	}
	shifted = p.Total != w.Total
	if gone := w.Total - p.Total; gone > 0 {
		w.Seen, w.Least = max(w.Seen-gone, 0), w.Least-gone
	}
	w.Total = p.Total
	if first := (w.Next - 1) * w.Size; shifted && first > w.Seen { // rows moved up to pages that were read before
		w.Next = w.Seen/w.Size + 1
		return true, false, nil
	}
	w.Seen = max(w.Seen, (w.Next-1)*w.Size+len(p.Rows))
	w.Next++
	return shifted, p.Last, nil
}

// readScan reads the scan in progress, nil when there is none.
func (r *countRun) readScan(ctx context.Context) (*scan, error) {
	t, err := book.Read(ctx, r.books, r.scanBook, []string{fieldScan}, nil)
	if err != nil {
		return nil, err
	}
	w := &scan{version: t.Version}
	found, err := t.Get(fieldScan, w)
	if err != nil || !found {
		return nil, err
	}
	return w, nil
}

// saveScan stores how far a scan got, also when the run's own time is up.
func (r *countRun) saveScan(w *scan) error {
	ctx, cancel := context.WithTimeout(context.Background(), writeFor)
	defer cancel()
	// The rows first: a scan that says it got further than its rows would lose them.
	if err := r.saveRows(ctx, w); err != nil {
		return err
	}
	w.At = r.Now()
	raw, err := json.Marshal(w)
	if err != nil {
		return err
	}
	return r.saveFields(ctx, w, map[string][]byte{fieldScan: raw})
}

// saveRows stores the rows that are not stored yet.
func (r *countRun) saveRows(ctx context.Context, w *scan) error {
	rows := w.rows
	w.rows = nil
	for len(rows) > 0 {
		write := map[string][]byte{}
		for len(rows) > 0 && len(write) < fieldsPerWrite {
			raw, n := encodeRows(rows)
			write[rowsField(w.Fields)] = raw
			w.Fields++
			rows = rows[n:]
		}
		if err := r.saveFields(ctx, w, write); err != nil {
			return err
		}
	}
	return nil
}

func (r *countRun) saveFields(ctx context.Context, w *scan, write map[string][]byte) error {
	if w.version == 0 { // remove what an earlier scan left
		b, err := r.books.ReadBook(ctx, r.scanBook, nil, nil)
		if err != nil {
			return err
		}
		if b.Version > 0 {
			if err := r.books.DropBook(ctx, r.scanBook); err != nil {
				return err
			}
		}
	}
	version, err := r.books.WriteBook(ctx, r.scanBook, ledger.BookWrite{Version: w.version, Owner: r.NewOwner(), Fields: write})
	if err == nil {
		w.version = version
	}
	return err
}

// tally returns what the scan has read so far of the goods from a number up to another; "" is no bound.
func (r *countRun) tally(ctx context.Context, w *scan, from, to string) (*tally, error) {
	t := newTally()
	t.from, t.to = from, to
	for first := 0; first < w.Fields; first += fieldsPerRead {
		var names []string
		for i := first; i < min(first+fieldsPerRead, w.Fields); i++ {
			names = append(names, rowsField(i))
		}
		read, err := book.Read(ctx, r.books, r.scanBook, names, nil)
		if err != nil {
			return nil, err
		}
		if read.Version != w.version {
			return nil, errors.New("somebody else counts the same warehouse")
		}
		for _, name := range names {
			if !decodeRows(read.Fields[name], t.add) {
				return nil, fmt.Errorf("%w: %s %s", book.ErrField, r.scanBook, name)
			}
		}
	}
	for _, row := range w.rows {
		t.add(row)
	}
	return t, nil
}

// kind is the condition of a row among those of its goods.
type kind struct{ status, sort, level string }

func (k kind) String() string { return k.status + "/" + k.sort + "/" + k.level }

// tally is the rows of a scan by goods, in little memory: there may be very many. Of a row that was read twice the later
// figures count.
type tally struct {
	// from and to bound the numbers of the goods; "" is no bound.
	from, to string

	index map[string]int32 // by the number of the goods
	goods []tallied
	rows  []tallyRow
	// kinds are few.
	kinds []kind
}

// tallied is one kind of goods; first is its first row's index, -1 for none.
type tallied struct {
	no, code string
	first    int32
}

// tallyRow is a row: of which kind, and the index of the next one of the same goods, -1 for none.
type tallyRow struct {
	total, usable int64
	next          int32
	kind          uint16
	saleable      bool
}

func newTally() *tally { return &tally{index: map[string]int32{}} }

// addGoods adds goods, so far without a row. It keeps no text that is a part of a larger one.
func (t *tally) addGoods(no, code string) *tallied {
	i, known := t.index[no]
	if !known {
		i, no = int32(len(t.goods)), strings.Clone(no) //nolint:gosec // far fewer
		t.index[no] = i
		t.goods = append(t.goods, tallied{no: no, first: -1})
	}
	g := &t.goods[i]
	if code != "" && code != g.code {
		g.code = strings.Clone(code)
	}
	return g
}

// add adds a row, or goods that are gone.
func (t *tally) add(row warehouse.StockRow) {
	if row.GoodsNo < t.from || t.to != "" && row.GoodsNo >= t.to {
		return
	}
	g := t.addGoods(row.GoodsNo, row.GoodsCode)
	if isGone(row) {
		return
	}
	k := kind{row.Status, row.Type, row.Level}
	n := slices.Index(t.kinds, k)
	if n < 0 {
		n = len(t.kinds)
		t.kinds = append(t.kinds, kind{strings.Clone(k.status), strings.Clone(k.sort), strings.Clone(k.level)})
	}
	last := &g.first
	for *last >= 0 {
		l := &t.rows[*last]
		if int(l.kind) == n {
			l.total, l.usable, l.saleable = row.Total, row.Usable, row.Saleable
			return
		}
		last = &l.next
	}
	*last = int32(len(t.rows))                                                            //nolint:gosec // far fewer
	t.rows = append(t.rows, tallyRow{row.Total, row.Usable, -1, uint16(n), row.Saleable}) //nolint:gosec // few
}

// has reports whether goods were found in a condition.
func (t *tally) has(no, condition string) bool {
	i, known := t.index[no]
	if !known {
		return false
	}
	for l := t.goods[i].first; l >= 0; l = t.rows[l].next {
		if t.kinds[t.rows[l].kind].String() == condition {
			return true
		}
	}
	return false
}

// counted is what a scan found of some goods.
type counted struct {
	code            string
	total, saleable int64
	kinds           []*stockv1.Counted_Kind
}

// sum returns what was found of some goods.
func (t *tally) sum(no string) *counted {
	c := &counted{}
	i, known := t.index[no]
	if !known {
		return c
	}
	c.code = t.goods[i].code
	for n := t.goods[i].first; n >= 0; n = t.rows[n].next {
		l := t.rows[n]
		c.total += l.total
		if l.saleable {
			c.saleable += max(l.usable, 0)
		}
		k := t.kinds[l.kind]
		c.kinds = append(c.kinds, &stockv1.Counted_Kind{Status: k.status, Type: k.sort, Level: k.level, Total: l.total, Usable: l.usable})
	}
	return c
}

// numbers returns those of all goods, in order.
func (t *tally) numbers() []string {
	nos := make([]string, len(t.goods))
	for i := range t.goods {
		nos[i] = t.goods[i].no
	}
	slices.Sort(nos)
	return nos
}

// goneGoods stands among the rows for goods of an earlier count of which no row is left.
func goneGoods(no, code string) warehouse.StockRow {
	return warehouse.StockRow{GoodsNo: no, GoodsCode: code, Status: goneStatus}
}

const goneStatus = "\x00gone"

func isGone(row warehouse.StockRow) bool { return row.Status == goneStatus }

// rowsVersion is the first byte of a field of rows.
const rowsVersion = 1

// encodeRows writes as many of the rows as fit into one field, and returns how many.
func encodeRows(rows []warehouse.StockRow) (field []byte, n int) {
	field = append(field, rowsVersion)
	for n = 0; n < min(len(rows), rowsPerField); n++ {
		row, end := rows[n], len(field)
		for _, s := range []string{row.GoodsNo, row.GoodsCode, row.Status, row.Type, row.Level} {
			field = append(binary.AppendUvarint(field, uint64(len(s))), s...)
		}
		field = binary.AppendVarint(binary.AppendVarint(field, row.Total), row.Usable)
		if row.Saleable {
			field = append(field, 1)
		} else {
			field = append(field, 0)
		}
		if len(field) > rowsBytes && n > 0 {
			return field[:end], n
		}
	}
	return field, n
}

// decodeRows reads what encodeRows wrote; false when it cannot.
func decodeRows(field []byte, each func(warehouse.StockRow)) bool {
	if len(field) == 0 || field[0] != rowsVersion {
		return false
	}
	rest, texts := field[1:], string(field[1:]) // one allocation for all texts of a field
	ok := true
	number := func() int64 {
		n, size := binary.Varint(rest)
		if ok = ok && size > 0; !ok {
			return 0
		}
		rest = rest[size:]
		return n
	}
	text := func() string {
		n, size := binary.Uvarint(rest)
		if ok = ok && size > 0 && n <= uint64(len(rest)-size); !ok {
			return ""
		}
		from := len(texts) - len(rest) + size
		rest = rest[size+int(n):]        //nolint:gosec // checked
		return texts[from : from+int(n)] //nolint:gosec // checked
	}
	for ok && len(rest) > 0 {
		row := warehouse.StockRow{GoodsNo: text(), GoodsCode: text(), Status: text(), Type: text(), Level: text(), Total: number(), Usable: number()}
		if ok = ok && len(rest) > 0; ok {
			row.Saleable, rest = rest[0] == 1, rest[1:]
			each(row)
		}
	}
	return ok
}
