package ledgertest_test

import (
	"bytes"
	"context"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"stockbridge/pkg/ledger"
	"stockbridge/pkg/ledger/ledgertest"
)

// A book in Redis, one in a bucket and a plain map: the same calls get the same answers.
func TestTheTwoLedgersAndAMapKeepTheSameBooks(t *testing.T) {
	t.Parallel()
	redis, kv, clock, identity := both(t)
	rapid.Check(t, func(rt *rapid.T) {
		n := identity.Add(1) // each history begins with an epoch
		clock.Add(time.Hour)
		c := bookComparison{T: rt, ctx: t.Context(), clock: clock, plain: &plainBooks{clock: clock, epochSince: clock.Now().UTC().Truncate(time.Microsecond), books: map[string]*plainBook{}}}
		c.books = []ledger.Books{c.plain, redis, kv}
		c.names = []string{fmt.Sprintf("b%d", n), fmt.Sprintf("b%d/单 *", n)}
		for _, name := range c.names {
			c.read(name, nil, nil)
		}
		for range rapid.IntRange(5, 40).Draw(rt, "steps") {
			c.step()
		}
		for _, name := range c.names {
			c.scan(name)
		}
	})
}

type bookComparison struct {
	*rapid.T
	ctx    context.Context
	clock  *ledgertest.Clock
	plain  *plainBooks
	books  []ledger.Books
	names  []string
	owners int
	last   []ledger.BookWrite
}

// same makes the same call on all and compares the answers with the first one.
func (c *bookComparison) same(what string, ask func(ledger.Books) (any, error)) {
	want, wantErr := ask(c.books[0])
	for i, books := range c.books[1:] {
		got, err := ask(books)
		if diff := cmp.Diff(said(wantErr), said(err)); diff != "" {
			c.Fatalf("%s: error of ledger %d differs from the map's:\n%s", what, i, diff)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			c.Fatalf("%s: answer of ledger %d differs from the map's:\n%.2000s", what, i, diff)
		}
	}
}

func (c *bookComparison) step() {
	name := rapid.SampledFrom(c.names).Draw(c.T, "book")
	field := rapid.Custom(func(t *rapid.T) string {
		return rapid.SampledFrom([]string{"g/", "cursor", "g[1]/", "单"}).Draw(t, "kind") + fmt.Sprint(rapid.IntRange(0, 12).Draw(t, "field"))
	})
	mark := rapid.Custom(func(t *rapid.T) string { return fmt.Sprintf("F%03d", rapid.IntRange(0, 300).Draw(t, "mark")) })
	switch what := rapid.IntRange(0, 15).Draw(c.T, "what"); what {
	case 0:
		c.same("drop", func(b ledger.Books) (any, error) { return nil, b.DropBook(c.ctx, name) })
	case 1:
		c.clock.Add(time.Duration(rapid.Int64Range(1, int64(ledger.KeepMarks)).Draw(c.T, "time")))
	case 2:
		c.clock.Add(time.Duration(rapid.IntRange(1, 5).Draw(c.T, "seconds")) * time.Second)
	case 3:
		c.scan(name)
	case 4, 5, 6, 7:
		c.read(name, rapid.SliceOfN(field, 0, 30).Draw(c.T, "fields"), rapid.SliceOfN(mark, 0, 30).Draw(c.T, "marks"))
	case 8:
		if len(c.last) > 0 { // a lost answer
			w := rapid.SampledFrom(c.last).Draw(c.T, "again")
			c.same("write again", func(b ledger.Books) (any, error) { return b.WriteBook(c.ctx, name, w) })
		}
	default:
		w := ledger.BookWrite{Version: c.plain.version(name), Owner: fmt.Sprintf("w%d \"\n单", c.owners), Fields: map[string][]byte{}}
		c.owners++
		if rapid.IntRange(0, 9).Draw(c.T, "stale") == 0 {
			w.Version += uint64(rapid.IntRange(-1, 1).Draw(c.T, "other version"))
		}
		for _, f := range rapid.SliceOfN(field, 0, 10).Draw(c.T, "set") {
			size := rapid.SampledFrom([]int{0, 1, 500, 500, ledger.MaxField}).Draw(c.T, "size")
			w.Fields[f] = bytes.Repeat([]byte{byte(c.owners)}, size)
			if rapid.IntRange(0, 4).Draw(c.T, "remove") == 0 {
				w.Fields[f] = nil
			}
		}
		for _, m := range rapid.SliceOfN(mark, 0, 20).Draw(c.T, "mark") {
			age := time.Duration(rapid.Int64Range(-int64(time.Hour), int64(ledger.KeepMarks)).Draw(c.T, "age"))
			w.Marks = append(w.Marks, ledger.Mark{Name: m, At: c.clock.Now().Add(-age)})
		}
		if c.last = append(c.last, w); len(c.last) > 20 {
			c.last = c.last[1:]
		}
		c.same("write", func(b ledger.Books) (any, error) { return b.WriteBook(c.ctx, name, w) })
	}
}

func (c *bookComparison) read(name string, fields, marks []string) {
	c.same("read", func(b ledger.Books) (any, error) {
		book, err := b.ReadBook(c.ctx, name, fields, marks)
		return map[string]any{
			"version": book.Version, "born": book.EpochSince.UTC(), "fields": sums(book.Fields), "marked": book.Marked,
		}, err
	})
}

func (c *bookComparison) scan(name string) {
	prefix := rapid.SampledFrom([]string{"", "g", "g/", "g[1]", "单", "*"}).Draw(c.T, "prefix")
	c.same("scan "+prefix, func(b ledger.Books) (any, error) {
		read := map[string][]byte{}
		for from := ""; ; {
			fields, next, err := b.ScanBook(c.ctx, name, prefix, from)
			if err != nil {
				return nil, err
			}
			for _, f := range fields {
				read[f.Name] = f.Value
			}
			if from = next; next == "" {
				return sums(read), nil
			}
		}
	})
}

// sums replace values by digests; some values are long.
func sums(values map[string][]byte) map[string]string {
	out := map[string]string{}
	for name, value := range values {
		out[name] = fmt.Sprintf("%d %08x", len(value), crc32.ChecksumIEEE(value))
	}
	return out
}

// plainBooks are books in maps.
type plainBooks struct {
	clock      *ledgertest.Clock
	epochSince time.Time
	books      map[string]*plainBook
}

type plainBook struct {
	last    uint64
	dropped bool
	owners  []string
	answers map[string]uint64
	fields  map[string][]byte
	marks   map[string]time.Time
}

func (p *plainBooks) of(name string) *plainBook {
	b := p.books[name]
	if b == nil {
		b = &plainBook{answers: map[string]uint64{}, fields: map[string][]byte{}, marks: map[string]time.Time{}}
		p.books[name] = b
	}
	return b
}

func (p *plainBooks) version(name string) uint64 {
	if b := p.of(name); !b.dropped {
		return b.last
	}
	return 0
}

func (p *plainBooks) ReadBook(_ context.Context, name string, fields, marks []string) (ledger.Book, error) {
	b, out := p.of(name), ledger.Book{Version: p.version(name), EpochSince: p.epochSince, Fields: map[string][]byte{}, Marked: map[string]bool{}}
	for _, f := range fields {
		if value, ok := b.fields[f]; ok {
			out.Fields[f] = value
		}
	}
	for _, m := range marks {
		if at, ok := b.marks[m]; ok && at.Unix() > p.clock.Now().Add(-ledger.KeepMarks).Unix() {
			out.Marked[m] = true
		}
	}
	return out, nil
}

func (p *plainBooks) ReadMany(ctx context.Context, names, fields []string) ([]map[string][]byte, error) {
	books := make([]map[string][]byte, len(names))
	for i, name := range names {
		b, err := p.ReadBook(ctx, name, fields, nil)
		if err != nil {
			return nil, err
		}
		books[i] = b.Fields
	}
	return books, nil
}

func (p *plainBooks) WriteBook(_ context.Context, name string, w ledger.BookWrite) (uint64, error) {
	b := p.of(name)
	if version, ok := b.answers[w.Owner]; ok {
		return version, nil
	}
	if w.Version != p.version(name) {
		return 0, fmt.Errorf("write book %s: %w", name, ledger.ErrVersion)
	}
	b.last, b.dropped = max(b.last+1, uint64(p.clock.Now().UnixMicro())), false
	b.answers[w.Owner], b.owners = b.last, append(b.owners, w.Owner)
	if len(b.owners) > ledger.KeepOwners {
		delete(b.answers, b.owners[0])
		b.owners = b.owners[1:]
	}
	for field, value := range w.Fields {
		if value == nil {
			delete(b.fields, field)
		} else {
			b.fields[field] = slices.Clone(value)
		}
	}
	for _, m := range w.Marks {
		b.marks[m.Name] = m.At
	}
	return b.last, nil
}

func (p *plainBooks) ScanBook(_ context.Context, name, prefix, _ string) (fields []ledger.Field, next string, err error) {
	for _, field := range slices.Sorted(maps.Keys(p.of(name).fields)) {
		if strings.HasPrefix(field, prefix) {
			fields = append(fields, ledger.Field{Name: field, Value: p.of(name).fields[field]})
		}
	}
	return fields, "", nil
}

func (p *plainBooks) DropBook(_ context.Context, name string) error {
	b := p.of(name)
	if b.last != 0 && !b.dropped {
		b.dropped = true
		clear(b.fields)
		clear(b.marks)
	}
	return nil
}
