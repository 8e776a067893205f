package inkv_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"pgregory.net/rapid"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/ledger/inkv"
)

// A write of a book is many keys. Whichever step dies, whatever answer is lost, and with other writers and sweepers
// meanwhile: the write is done once and entirely, or not at all.
func TestBooksOverABadConnection(t *testing.T) {
	t.Parallel()
	b := start(t)
	connection := newBad(b.books(t))
	const handles = 2
	var ledgers [handles]*inkv.Ledger
	ledgers[0] = open(t, inkv.Options{Bucket: b.bucket(t), Books: connection, Identity: b.bus.ServerID})
	ledgers[1] = b.open(t, nil)
	book := 0
	rapid.Check(t, func(rt *rapid.T) {
		book++
		name := fmt.Sprintf("book%d", book)
		s := bookStory{T: rt, ctx: t.Context(), name: name, fields: map[string]string{}, marks: map[string]bool{}}
		connection.arm(always, always)
		for n := range rapid.IntRange(5, 25).Draw(rt, "writes") {
			l := ledgers[rapid.IntRange(0, 1).Draw(rt, "handle")]
			switch rapid.IntRange(0, 3).Draw(rt, "connection") {
			case 0:
				connection.arm(rapid.IntRange(0, 6).Draw(rt, "not done"), always)
			case 1:
				connection.arm(always, rapid.IntRange(0, 6).Draw(rt, "not answered"))
			}
			var meanwhile error
			if rapid.IntRange(0, 4).Draw(rt, "in between") == 0 {
				another := s.draw(fmt.Sprintf("between %d", n))
				connection.mu.Lock()
				connection.skip = rapid.IntRange(0, 5).Draw(rt, "after")
				connection.between = func() { // another commits, or sweeps
					if n%2 == 0 {
						ledgers[1].SweepBook(t.Context(), name)
					} else {
						meanwhile = s.write(ledgers[1], another)
					}
				}
				connection.mu.Unlock()
			}
			err := s.write(l, s.draw(fmt.Sprintf("write %d", n)))
			connection.mu.Lock()
			connection.between, connection.skip = nil, 0
			connection.mu.Unlock()
			if err := errors.Join(err, meanwhile); err != nil {
				rt.Fatal(err)
			}
			connection.arm(always, always)
			if rapid.IntRange(0, 4).Draw(rt, "sweep") == 0 {
				ledgers[0].SweepBook(t.Context(), name)
			}
			s.holds(l)
		}
		ledgers[0].SweepBook(t.Context(), name)
		s.holds(ledgers[1])
		if n, named := pagesOf(rt, b.books(t), name), ledgers[0].Pages(t.Context(), name); n != named {
			rt.Fatalf("%d pages stand there after a sweep, %d are named", n, named)
		}
	})
}

func pagesOf(t *rapid.T, bucket *bus.Bucket, name string) int {
	keys, err := bucket.Keys(context.Background(), "page."+name)
	if err != nil {
		t.Fatal(err)
	}
	return len(keys)
}

// bookStory is a book and its expected content.
type bookStory struct {
	*rapid.T
	ctx    context.Context
	name   string
	fields map[string]string
	marks  map[string]bool
}

// draw is a write by a new owner.
func (s *bookStory) draw(owner string) ledger.BookWrite {
	w := ledger.BookWrite{Owner: owner, Fields: map[string][]byte{}, Marks: []ledger.Mark{{Name: owner, At: time.Now()}}}
	for _, n := range rapid.SliceOfN(rapid.IntRange(0, 40), 0, 8).Draw(s.T, "fields") {
		field := fmt.Sprintf("f%02d", n)
		w.Fields[field] = bytes.Repeat([]byte(owner+" "), rapid.SampledFrom([]int{1, 20, 2000}).Draw(s.T, "size"))
		if rapid.IntRange(0, 6).Draw(s.T, "remove") == 0 {
			w.Fields[field] = nil
		}
	}
	return w
}

// write reads the book and writes, once: after a lost answer the book shows whether it was written.
func (s *bookStory) write(l *inkv.Ledger, w ledger.BookWrite) error {
	book, err := l.ReadBook(s.ctx, s.name, nil, nil)
	if err != nil {
		return err
	}
	w.Version = book.Version
	_, err = l.WriteBook(s.ctx, s.name, w)
	if errors.Is(err, ledger.ErrVersion) {
		return nil
	}
	if err != nil {
		if now, err := l.ReadBook(s.ctx, s.name, nil, []string{w.Owner}); err != nil || !now.Marked[w.Owner] {
			return err
		}
		if _, err := l.WriteBook(s.ctx, s.name, w); err != nil {
			return fmt.Errorf("done, and the same owner again: %w", err)
		}
	}
	for field, value := range w.Fields {
		if value == nil {
			delete(s.fields, field)
		} else {
			s.fields[field] = string(value)
		}
	}
	s.marks[w.Owner] = true
	return nil
}

// holds compares the book with the expected content.
func (s *bookStory) holds(l *inkv.Ledger) {
	var names, marks []string
	for n := range 41 {
		names = append(names, fmt.Sprintf("f%02d", n))
		marks = append(marks, fmt.Sprintf("write %d", n), fmt.Sprintf("between %d", n))
	}
	book, err := l.ReadBook(s.ctx, s.name, names, marks)
	if err != nil {
		s.Fatal(err)
	}
	for _, name := range names {
		value, ok := book.Fields[name]
		if want, has := s.fields[name]; ok != has || string(value) != want {
			s.Fatalf("%s is %.20q (%d), want %.20q (%d)", name, value, len(value), want, len(want))
		}
	}
	if !maps.Equal(book.Marked, s.marks) {
		s.Fatalf("marked: %v, want %v", book.Marked, s.marks)
	}
}

// A reader that is delayed between the head and its pages finds the book as of later, and a writer that is delayed
// before its commit does not undo a later change.
func TestALateReaderOrWriterOfABook(t *testing.T) {
	b := start(t)
	connection := newBad(b.books(t))
	slow := open(t, inkv.Options{Bucket: b.bucket(t), Books: connection, Identity: b.bus.ServerID})
	quick := b.open(t, nil)
	version := uint64(0)
	write := func(l ledger.Books, owner string, fields ...string) error {
		w := ledger.BookWrite{Version: version, Owner: owner, Fields: map[string][]byte{}}
		for _, f := range fields {
			w.Fields[f] = bytes.Repeat([]byte(owner), ledger.MaxField/len(owner))
		}
		v, err := l.WriteBook(t.Context(), "b", w)
		if err == nil {
			version = v
		}
		return err
	}
	ok(t, write(quick, "1", "a", "b", "c"))

	connection.reading = func() { // the head was read: it is rewritten, twice
		ok(t, write(quick, "2", "a", "b", "c"))
		ok(t, write(quick, "3", "a", "b", "c"))
		eventually(t, "the first pages are gone", func() bool {
			keys, err := b.books(t).Keys(t.Context(), "page.b")
			return err == nil && len(keys) <= 6
		})
	}
	book, err := slow.ReadBook(t.Context(), "b", []string{"a", "b", "c"}, nil)
	ok(t, err)
	for _, f := range []string{"a", "b", "c"} {
		if book.Version != version || book.Fields[f][0] != '3' {
			t.Errorf("%s of version %d is of %c, the last is %d", f, book.Version, book.Fields[f][0], version)
		}
	}

	connection.between = func() { // before its first page
		version := version
		if _, err := quick.WriteBook(t.Context(), "b", ledger.BookWrite{Version: version, Owner: "4", Fields: map[string][]byte{"a": []byte("4")}}); err != nil {
			t.Error(err)
		}
	}
	if err := write(slow, "5", "a", "b", "c"); !errors.Is(err, ledger.ErrVersion) {
		t.Errorf("written over a later one: %v", err)
	}
	book, err = quick.ReadBook(t.Context(), "b", []string{"a", "b"}, nil)
	if err != nil || string(book.Fields["a"]) != "4" || book.Fields["b"][0] != '3' {
		t.Errorf("%.10q, %.10q, %v", book.Fields["a"], book.Fields["b"], err)
	}
	eventually(t, "what the late one had made is removed", func() bool {
		keys, err := b.books(t).Keys(t.Context(), "page.b")
		return err == nil && len(keys) == quick.Pages(t.Context(), "b")
	})
}

// A bucket of books restored from an older copy, under a running server, is noticed: the epoch ends.
func TestAnOlderCopyOfBooksEndsTheEpoch(t *testing.T) {
	b := start(t)
	clock := newClock()
	connection := newBad(b.books(t))
	l := open(t, inkv.Options{Bucket: b.bucket(t), Books: connection, Identity: func() string { return "the same" }, Now: clock.Now})
	write := func(version uint64, owner string) uint64 {
		t.Helper()
		v, err := l.WriteBook(t.Context(), "b", ledger.BookWrite{Version: version, Owner: owner})
		ok(t, err)
		return v
	}
	read := func() ledger.Book {
		t.Helper()
		book, err := l.ReadBook(t.Context(), "b", nil, nil)
		ok(t, err)
		return book
	}
	before := read()
	v := write(write(0, "w1"), "w2")
	clock.Add(time.Minute)
	connection.ahead.Store(90)
	write(v, "w3")
	if after := read(); !after.EpochSince.After(before.EpochSince) {
		t.Errorf("epoch since %s, as before", after.EpochSince)
	}
}

// Dropped books, and pages of dead writers, are removed some day.
func TestWhatNoBookNamesIsSweptAway(t *testing.T) {
	b := start(t)
	clock := newClock()
	connection := newBad(b.books(t))
	l := open(t, inkv.Options{Bucket: b.bucket(t), Books: connection, Identity: b.bus.ServerID, Now: clock.Now})
	big := func(version uint64, owner string) ledger.BookWrite {
		w := ledger.BookWrite{Version: version, Owner: owner, Fields: map[string][]byte{}}
		for i := range 6 {
			w.Fields[fmt.Sprint(i)] = make([]byte, ledger.MaxField)
		}
		return w
	}
	_, err := l.WriteBook(t.Context(), "b", big(0, "w1"))
	ok(t, err)
	v, err := l.WriteBook(t.Context(), "c", big(0, "w1"))
	ok(t, err)
	connection.arm(2, always)
	if _, err := l.WriteBook(t.Context(), "c", big(v, "w2")); !errors.Is(err, errGone) {
		t.Fatal(err)
	}
	connection.arm(always, always)
	ok(t, l.DropBook(t.Context(), "b"))
	l.SweepBook(t.Context(), "b")
	l.SweepBook(t.Context(), "c")
	count := func(prefix string) int {
		keys, err := b.books(t).Keys(t.Context(), prefix)
		ok(t, err)
		return len(keys)
	}
	if n := count("page.b"); n != 0 {
		t.Errorf("%d pages of a book that was dropped", n)
	}
	if n, named := count("page.c"), l.Pages(t.Context(), "c"); n != named || n == 0 {
		t.Errorf("%d pages, %d are named", n, named)
	}
	if count("head") != 2 {
		t.Error("a head is gone while its version may come again")
	}
	clock.Add(25 * time.Hour)
	l.SweepBook(t.Context(), "b")
	l.SweepBook(t.Context(), "c")
	if count("head.b") != 0 || count("head") != 1 {
		t.Error("heads:", count("head"))
	}
	ok(t, func() error { _, err := l.ReadBook(t.Context(), "c", []string{"1"}, nil); return err }())
}
