package inkv

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/ledger"
)

const (
	// together is how many pages are read or written at the same time.
	together = 16
	// missing is how often a page that is not there is looked for, with the head read again.
	missing = 10
	// keepDropped is how long the version of a book that was dropped is known. After that the clock is past it.
	keepDropped = 24 * time.Hour
	// removeLimit is for removing pages, which nobody waits for.
	removeLimit = 30 * time.Second
	// lateMarks is how long marks that are over may stay in a page that nothing else changes.
	lateMarks = 24 * time.Hour
	// tidyMost is how many of such pages one write changes.
	tidyMost = 2
)

// errPageGone: the head was rewritten twice since it was read, or the bucket lost something.
var errPageGone = errors.New("a page of the book is missing")

func headKey(name string) string     { return keyOf(heads, name) }
func pageKey(name, id string) string { return keyOf(pages, name, id) }

// cut is the last second whose marks stand no more.
func (l *Ledger) cut() int64 { return l.now().Unix() - int64(ledger.KeepMarks.Seconds()) }

// head reads a book's head; an empty one and revision 0 when there is no such book.
func (l *Ledger) head(ctx context.Context, name string) (*head, uint64, error) {
	v, err := l.books.Get(ctx, headKey(name))
	if errors.Is(err, bus.ErrKeyNotFound) {
		return &head{}, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	h, err := decodeHead(v.Data)
	if err != nil {
		return nil, 0, fmt.Errorf("read the head: %w", err)
	}
	noteRevision(&l.booksHigh, v.Revision)
	return h, v.Revision, nil
}

// readPages reads some pages of a book.
func (l *Ledger) readPages(ctx context.Context, name string, some []page) ([][]item, error) {
	contents := make([][]item, len(some))
	err := each(len(some), func(i int) error {
		v, err := l.books.Get(ctx, pageKey(name, some[i].id))
		if errors.Is(err, bus.ErrKeyNotFound) {
			return errPageGone
		}
		if err != nil {
			return err
		}
		if contents[i], err = decodePage(v.Data); err != nil {
			return fmt.Errorf("read page %s: %w", some[i].id, err)
		}
		return nil
	})
	return contents, err
}

// each does n things, some at the same time, and tells the first error of them.
func each(n int, do func(i int) error) error {
	errs := make([]error, n)
	var running sync.WaitGroup
	turn := make(chan struct{}, together)
	for i := range n {
		turn <- struct{}{}
		running.Go(func() {
			errs[i] = do(i)
			<-turn
		})
	}
	running.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// again does do until all pages that it needs are there.
func again(ctx context.Context, do func() error) error {
	for range missing {
		if err := do(); !errors.Is(err, errPageGone) {
			return err
		}
		select {
		case <-time.After(mathrand.N(2 * conflictPause)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errPageGone
}

// lookUp reads a head and tells which of the keys its book has.
func (l *Ledger) lookUp(ctx context.Context, name string, keys []string) (h *head, found map[string][]byte, err error) {
	if h, _, err = l.head(ctx, name); err != nil {
		return nil, nil, err
	}
	found = make(map[string][]byte, len(keys))
	in := map[int][]string{} // by the page that may have them
	for _, key := range keys {
		if i, ok := find(h.recent, key); ok {
			if i.value != nil {
				found[key] = i.value
			}
		} else if len(h.pages) > 0 {
			at := pageOf(h.pages, key)
			in[at] = append(in[at], key)
		}
	}
	places := make([]int, 0, len(in))
	for at := range in {
		places = append(places, at)
	}
	for batch := range slices.Chunk(places, together) {
		some := make([]page, len(batch))
		for i, at := range batch {
			some[i] = h.pages[at]
		}
		contents, err := l.readPages(ctx, name, some)
		if err != nil {
			return nil, nil, err
		}
		for i, at := range batch {
			for _, key := range in[at] {
				if it, ok := find(contents[i], key); ok {
					found[key] = it.value
				}
			}
		}
	}
	return h, found, nil
}

// ReadBook implements ledger.Books.
func (l *Ledger) ReadBook(ctx context.Context, name string, fields, marks []string) (ledger.Book, error) {
	b, err := l.readBook(ctx, name, fields, marks)
	if err != nil {
		return ledger.Book{}, fmt.Errorf("read book %s: %w", name, err)
	}
	return b, nil
}

func (l *Ledger) readBook(ctx context.Context, name string, fields, marks []string) (b ledger.Book, err error) {
	if err := ledger.ValidRead(name, fields, marks); err != nil {
		return b, err
	}
	keys := make([]string, 0, len(fields)+len(marks))
	for _, f := range fields {
		keys = append(keys, fieldKind+f)
	}
	for _, m := range marks {
		keys = append(keys, markKind+m)
	}
	var h *head
	var found map[string][]byte
	if err := again(ctx, func() (err error) {
		h, found, err = l.lookUp(ctx, name, keys)
		return err
	}); err != nil {
		return b, err
	}
	b.Version, b.Fields, b.Marked = h.version(), map[string][]byte{}, map[string]bool{}
	for _, f := range fields {
		if value, ok := found[fieldKind+f]; ok {
			b.Fields[f] = value
		}
	}
	cut := l.cut()
	for _, m := range marks {
		if value, ok := found[markKind+m]; ok && !(item{markKind + m, value}).over(cut) {
			b.Marked[m] = true
		}
	}
	// After the book: one that was put back in between is told with the birth that ended by it, or a later one.
	err = repeat(ctx, func() error {
		born, err := l.born(ctx)
		b.EpochSince = born.Since
		if errors.Is(err, errOlder) {
			return errConflict
		}
		return err
	})
	return b, err
}

// WriteBook implements ledger.Books.
func (l *Ledger) WriteBook(ctx context.Context, name string, w ledger.BookWrite) (uint64, error) {
	version, err := l.writeBook(ctx, name, w)
	if err != nil {
		return 0, fmt.Errorf("write book %s: %w", name, err)
	}
	return version, nil
}

func (l *Ledger) writeBook(ctx context.Context, name string, w ledger.BookWrite) (version uint64, err error) {
	if err := w.Valid(name); err != nil {
		return 0, err
	}
	changes := changesOf(w)
	err = again(ctx, func() error {
		return l.changeBook(ctx, name, func(h *head) (*head, []string, error) {
			if v, ok := h.by(w.Owner); ok {
				version = v
				return nil, nil, nil
			}
			if h.version() != w.Version {
				return nil, nil, ledger.ErrVersion
			}
			next := &head{last: max(h.last+1, uint64(l.now().UnixMicro())), pages: h.pages, gone: h.gone}
			version = next.last
			next.owners = append(slices.Clone(h.owners), written{w.Owner, version})
			next.owners = next.owners[max(len(next.owners)-ledger.KeepOwners, 0):]
			next.recent = merge(h.recent, changes)
			if sizeOf(next.recent) <= recentMost {
				return next, nil, nil
			}
			made, err := l.turnOver(ctx, name, next)
			return next, made, err
		})
	})
	return version, err
}

// changesOf is what a write changes, in order.
func changesOf(w ledger.BookWrite) []item {
	changes := make([]item, 0, len(w.Fields)+len(w.Marks))
	for field, value := range w.Fields {
		changes = append(changes, item{fieldKind + field, value})
	}
	marked := make(map[string]int64, len(w.Marks)) // the last one of a name counts
	for _, m := range w.Marks {
		marked[m.Name] = m.At.Unix()
	}
	for name, at := range marked {
		changes = append(changes, markItem(name, at))
	}
	sortItems(changes)
	return changes
}

// changeBook reads a head and writes what do makes of it; nothing when that is nil. do also tells which pages it made:
// they are removed when it fails. After an error of the last write the head may have been written, so they stay; a sweep
// finds those that no head names.
func (l *Ledger) changeBook(ctx context.Context, name string, do func(*head) (next *head, made []string, err error)) error {
	return repeat(ctx, func() error {
		h, revision, err := l.head(ctx, name)
		if err != nil {
			return err
		}
		next, made, err := do(h)
		if err != nil || next == nil {
			l.remove(name, made)
			return err
		}
		_, err = l.store(ctx, l.books, &l.booksHigh, headKey(name), next.encode(), revision)
		switch {
		case errors.Is(err, errConflict):
			if len(made) > 0 { // mostly nobody names them; the sweep knows for certain
				l.inBackground(func(ctx context.Context) { _ = l.sweepBook(ctx, headKey(name)) })
			}
			return err
		case err != nil && !errors.Is(err, errOlder):
			return err
		}
		if !slices.Equal(h.gone, next.gone) {
			l.remove(name, h.gone)
		}
		return nil
	})
}

// remove removes pages, in the background.
func (l *Ledger) remove(name string, ids []string) {
	if len(ids) > 0 {
		l.inBackground(func(ctx context.Context) {
			_ = each(len(ids), func(i int) error { return l.books.Delete(ctx, pageKey(name, ids[i]), 0) })
		})
	}
}

// inBackground does what nobody waits for and what a sweep would do too.
func (l *Ledger) inBackground(do func(ctx context.Context)) {
	l.work.Go(func() {
		ctx, cancel := context.WithTimeout(l.background, removeLimit)
		defer cancel()
		do(ctx)
	})
}

// turnOver brings what h holds itself into pages, which it writes, and tells which those are, also with an error. h then
// names them.
func (l *Ledger) turnOver(ctx context.Context, name string, h *head) (made []string, err error) {
	changes, cut := h.recent, l.cut()
	t := turning{l: l, ctx: ctx, name: name}
	if len(h.pages) == 0 {
		t.put(live(changes, cut))
	}
	late, tidied := cut-int64(lateMarks.Seconds()), 0
	for first := 0; first < len(h.pages) && t.err == nil; first += together {
		batch := h.pages[first:min(first+together, len(h.pages))]
		// What changes in each of these pages; those without a change stay as they are.
		over := make([][]item, len(batch))
		var turned []page
		for i, p := range batch {
			n := len(changes)
			if next := first + i + 1; next < len(h.pages) {
				n, _ = slices.BinarySearchFunc(changes, h.pages[next].first, func(it item, key string) int { return strings.Compare(it.key, key) })
			}
			over[i], changes = changes[:n], changes[n:]
			if len(over[i]) == 0 && p.oldest <= late && tidied < tidyMost {
				over[i] = []item{}
				tidied++
			} else if len(over[i]) == 0 {
				over[i] = nil
				continue
			}
			turned = append(turned, p)
		}
		contents, err := l.readPages(ctx, name, turned)
		if err != nil {
			return t.made, err
		}
		for i, p := range batch {
			if over[i] == nil {
				t.keep(p)
				continue
			}
			t.gone = append(t.gone, p.id)
			t.put(live(merge(contents[0], over[i]), cut))
			contents = contents[1:]
		}
	}
	t.flush()
	h.pages, h.gone, h.recent = t.pages, t.gone, nil
	return t.made, t.err
}

// turning writes pages anew, some at a time.
type turning struct {
	l    *Ledger
	ctx  context.Context
	name string

	pages []page
	gone  []string
	made  []string
	// rest is what was put and is too little for a page.
	rest []item
	// writing are contents of the last of pages.
	writing [][]item
	err     error
}

// put adds items after all others.
func (t *turning) put(items []item) {
	items = append(t.rest, items...)
	t.rest = nil
	size := sizeOf(items)
	if size < pageMost/4 {
		t.rest = items
		return
	}
	n := (size + pageMost - 1) / pageMost
	part, from := size/n, 0
	for i, got := 0, 0; i < len(items); i++ {
		if got += items[i].size(); got >= part || i == len(items)-1 {
			t.add(items[from : i+1])
			from, got = i+1, 0
		}
	}
}

// keep adds a page as it is.
func (t *turning) keep(p page) {
	t.flush()
	t.pages = append(t.pages, p)
}

// settle makes a page of what is left, small as it is.
func (t *turning) settle() {
	if rest := t.rest; len(rest) > 0 {
		t.rest = nil
		t.add(rest)
	}
}

func (t *turning) add(items []item) {
	id := rand.Text()
	t.pages = append(t.pages, page{items[0].key, id, oldestOf(items)})
	t.writing = append(t.writing, items)
	if len(t.writing) == together {
		t.flush()
	}
}

// flush writes what has been put.
func (t *turning) flush() {
	t.settle()
	n := len(t.writing)
	if n == 0 || t.err != nil {
		return
	}
	last := t.pages[len(t.pages)-n:]
	for _, p := range last {
		t.made = append(t.made, p.id)
	}
	t.err = each(n, func(i int) error {
		_, err := t.l.store(t.ctx, t.l.books, &t.l.booksHigh, pageKey(t.name, last[i].id), encodePage(t.writing[i]), 0)
		if errors.Is(err, errOlder) {
			return nil
		}
		return err
	})
	t.writing = nil
}

// ScanBook implements ledger.Books.
func (l *Ledger) ScanBook(ctx context.Context, name, prefix, from string) ([]ledger.Field, string, error) {
	var fields []ledger.Field
	var next string
	err := again(ctx, func() (err error) {
		fields, next, err = l.scanBook(ctx, name, prefix, from)
		return err
	})
	if err != nil {
		return nil, "", fmt.Errorf("scan book %s: %w", name, err)
	}
	return fields, next, nil
}

// scanBook tells what stands from a key on, up to the end of its page.
func (l *Ledger) scanBook(ctx context.Context, name, prefix, from string) (fields []ledger.Field, next string, err error) {
	prefix = fieldKind + prefix
	from = max(from, prefix)
	h, _, err := l.head(ctx, name)
	if err != nil {
		return nil, "", err
	}
	var items []item
	if len(h.pages) > 0 {
		at := pageOf(h.pages, from)
		if at+1 < len(h.pages) && strings.HasPrefix(h.pages[at+1].first, prefix) {
			next = h.pages[at+1].first
		}
		contents, err := l.readPages(ctx, name, h.pages[at:at+1])
		if err != nil {
			return nil, "", err
		}
		items = contents[0]
	}
	for _, i := range merge(items, h.recent) {
		if i.value != nil && i.key >= from && (next == "" || i.key < next) && strings.HasPrefix(i.key, prefix) {
			fields = append(fields, ledger.Field{Name: strings.TrimPrefix(i.key, fieldKind), Value: i.value})
		}
	}
	return fields, next, nil
}

// DropBook implements ledger.Books.
func (l *Ledger) DropBook(ctx context.Context, name string) error {
	err := l.changeBook(ctx, name, func(h *head) (*head, []string, error) {
		if h.last == 0 || h.dropped {
			return nil, nil, nil
		}
		next := &head{last: h.last, dropped: true, droppedAt: l.now().Unix(), owners: h.owners}
		for _, p := range h.pages {
			next.gone = append(next.gone, p.id)
		}
		return next, nil, nil
	})
	if err != nil {
		return fmt.Errorf("drop book %s: %w", name, err)
	}
	return nil
}

// sweepBooks removes pages that no head names: of writers that died, and of books that were dropped. What cannot be removed
// now is found by the next sweep.
func (l *Ledger) sweepBooks(ctx context.Context) {
	keys, err := l.books.Keys(ctx, heads)
	if err != nil {
		return
	}
	for _, key := range keys {
		_ = l.sweepBook(ctx, key)
	}
}

func (l *Ledger) sweepBook(ctx context.Context, key string) error {
	v, err := l.books.Get(ctx, key)
	if err != nil {
		return err
	}
	h, err := decodeHead(v.Data)
	if err != nil {
		return err
	}
	below := pages + strings.TrimPrefix(key, heads)
	there, err := l.books.Keys(ctx, below)
	if err != nil {
		return err
	}
	named := map[string]bool{}
	for _, p := range h.pages {
		named[below+"."+keyOf(p.id)] = true
	}
	orphans := slices.DeleteFunc(there, func(key string) bool { return named[key] })
	if len(orphans) > 0 {
		// A writer may be about to name one of them. Written again, the head refuses all who read it before.
		if v.Revision, err = l.store(ctx, l.books, &l.booksHigh, key, v.Data, v.Revision); err != nil {
			return err
		}
		if err := each(len(orphans), func(i int) error { return l.books.Delete(ctx, orphans[i], 0) }); err != nil {
			return err
		}
	}
	if h.dropped && l.now().Sub(time.Unix(h.droppedAt, 0)) > keepDropped {
		return l.books.Delete(ctx, key, v.Revision)
	}
	return nil
}
