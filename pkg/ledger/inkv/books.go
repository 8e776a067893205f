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
	// parallel is how many pages are read or written at the same time.
	parallel = 16
	// maxPageRetries is how often a missing page is looked for, with the head read again.
	maxPageRetries = 10
	// keepDropped is how long the version of a dropped book is remembered. After that the clock is past it.
	keepDropped = 24 * time.Hour
	// removeLimit is for removing pages, in the background.
	removeLimit = 30 * time.Second
	// keepExpiredMarks is how long expired marks may stay in a page that nothing else changes.
	keepExpiredMarks = 24 * time.Hour
	// maxTidied is how many of such pages one write rewrites.
	maxTidied = 2
)

// errPageGone: the head was rewritten twice since it was read, or the bucket lost something.
var errPageGone = errors.New("a page of the book is missing")

func headKey(name string) string     { return keyOf(heads, name) }
func pageKey(name, id string) string { return keyOf(pages, name, id) }

// cut is the last second whose marks are expired.
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
	raiseTo(&l.booksHighRevision, v.Revision)
	return h, v.Revision, nil
}

// readPages reads the given pages of a book.
func (l *Ledger) readPages(ctx context.Context, name string, some []page) ([][]item, error) {
	contents := make([][]item, len(some))
	err := inParallel(len(some), func(i int) error {
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

// inParallel does n things, some at the same time, and returns the first error.
func inParallel(n int, do func(i int) error) error {
	errs := make([]error, n)
	var running sync.WaitGroup
	turn := make(chan struct{}, parallel)
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

// retryMissingPages repeats do until all pages that it needs are there.
func retryMissingPages(ctx context.Context, do func() error) error {
	for range maxPageRetries {
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

// lookup reads a head and the values of the keys that its book has.
func (l *Ledger) lookup(ctx context.Context, name string, keys []string) (h *head, found map[string][]byte, err error) {
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
	for batch := range slices.Chunk(places, parallel) {
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

// ReadMany implements ledger.Books.
func (l *Ledger) ReadMany(ctx context.Context, names, fields []string) ([]map[string][]byte, error) {
	keys := make([]string, len(fields))
	for i, f := range fields {
		keys[i] = fieldKind + f
	}
	books := make([]map[string][]byte, len(names))
	err := inParallel(len(names), func(i int) error {
		var found map[string][]byte
		if err := retryMissingPages(ctx, func() (err error) {
			_, found, err = l.lookup(ctx, names[i], keys)
			return err
		}); err != nil {
			return fmt.Errorf("read book %s: %w", names[i], err)
		}
		books[i] = map[string][]byte{}
		for j, f := range fields {
			if value, ok := found[keys[j]]; ok {
				books[i][f] = value
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return books, nil
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
	if err := retryMissingPages(ctx, func() (err error) {
		h, found, err = l.lookup(ctx, name, keys)
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
		if value, ok := found[markKind+m]; ok && !(item{markKind + m, value}).expired(cut) {
			b.Marked[m] = true
		}
	}
	// After the book: one that was rolled back in between is returned with the epoch that this ended, or a later one.
	err = retryConflicts(ctx, func() error {
		current, err := l.epoch(ctx)
		b.EpochSince = current.Since
		if errors.Is(err, errRolledBack) {
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
	err = retryMissingPages(ctx, func() error {
		return l.updateBook(ctx, name, func(h *head) (*head, []string, error) {
			if v, ok := h.versionBy(w.Owner); ok {
				version = v
				return nil, nil, nil
			}
			if h.version() != w.Version {
				return nil, nil, ledger.ErrVersion
			}
			next := &head{last: max(h.last+1, uint64(l.now().UnixMicro())), pages: h.pages, replaced: h.replaced}
			version = next.last
			next.owners = append(slices.Clone(h.owners), bookWriter{w.Owner, version})
			next.owners = next.owners[max(len(next.owners)-ledger.KeepOwners, 0):]
			next.recent = merge(h.recent, changes)
			if sizeOf(next.recent) <= maxRecent {
				return next, nil, nil
			}
			created, err := l.rewritePages(ctx, name, next)
			return next, created, err
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

// updateBook reads a head and writes what do makes of it; nothing when that is nil. do also returns the pages that it
// created: they are removed when it fails. After an error of the last write the head may have been written, so they
// stay; a sweep finds those that no head names.
func (l *Ledger) updateBook(ctx context.Context, name string, do func(*head) (next *head, created []string, err error)) error {
	return retryConflicts(ctx, func() error {
		h, revision, err := l.head(ctx, name)
		if err != nil {
			return err
		}
		next, created, err := do(h)
		if err != nil || next == nil {
			l.remove(name, created)
			return err
		}
		_, err = l.putRaw(ctx, l.books, &l.booksHighRevision, headKey(name), next.encode(), revision)
		switch {
		case errors.Is(err, errConflict):
			if len(created) > 0 { // mostly nobody names them; the sweep knows for certain
				l.inBackground(func(ctx context.Context) { _ = l.sweepBook(ctx, headKey(name)) })
			}
			return err
		case err != nil && !errors.Is(err, errRolledBack):
			return err
		}
		if !slices.Equal(h.replaced, next.replaced) {
			l.remove(name, h.replaced)
		}
		return nil
	})
}

// remove removes pages, in the background.
func (l *Ledger) remove(name string, ids []string) {
	if len(ids) > 0 {
		l.inBackground(func(ctx context.Context) {
			_ = inParallel(len(ids), func(i int) error { return l.books.Delete(ctx, pageKey(name, ids[i]), 0) })
		})
	}
}

// inBackground does work that no caller waits for and that a sweep would do too.
func (l *Ledger) inBackground(do func(ctx context.Context)) {
	l.work.Go(func() {
		ctx, cancel := context.WithTimeout(l.background, removeLimit)
		defer cancel()
		do(ctx)
	})
}

// rewritePages moves what h holds itself into pages, which it writes, and returns those pages, also with an error. h
// then names them.
func (l *Ledger) rewritePages(ctx context.Context, name string, h *head) (created []string, err error) {
	changes, cut := h.recent, l.cut()
	t := pageWriter{l: l, ctx: ctx, name: name}
	if len(h.pages) == 0 {
		t.put(withoutExpired(changes, cut))
	}
	late, tidied := cut-int64(keepExpiredMarks.Seconds()), 0
	for first := 0; first < len(h.pages) && t.err == nil; first += parallel {
		batch := h.pages[first:min(first+parallel, len(h.pages))]
		// The changes of each of these pages; pages without a change are kept.
		changesOfPage := make([][]item, len(batch))
		var changedPages []page
		for i, p := range batch {
			n := len(changes)
			if next := first + i + 1; next < len(h.pages) {
				n, _ = slices.BinarySearchFunc(changes, h.pages[next].first, func(it item, key string) int { return strings.Compare(it.key, key) })
			}
			changesOfPage[i], changes = changes[:n], changes[n:]
			if len(changesOfPage[i]) == 0 && p.oldest <= late && tidied < maxTidied {
				changesOfPage[i] = []item{}
				tidied++
			} else if len(changesOfPage[i]) == 0 {
				changesOfPage[i] = nil
				continue
			}
			changedPages = append(changedPages, p)
		}
		contents, err := l.readPages(ctx, name, changedPages)
		if err != nil {
			return t.created, err
		}
		for i, p := range batch {
			if changesOfPage[i] == nil {
				t.keep(p)
				continue
			}
			t.replaced = append(t.replaced, p.id)
			t.put(withoutExpired(merge(contents[0], changesOfPage[i]), cut))
			contents = contents[1:]
		}
	}
	t.flush()
	h.pages, h.replaced, h.recent = t.pages, t.replaced, nil
	return t.created, t.err
}

// pageWriter writes pages again, some at a time.
type pageWriter struct {
	l    *Ledger
	ctx  context.Context
	name string

	pages    []page
	replaced []string
	created  []string
	// rest was put and is too little for a page.
	rest []item
	// writing is the content of the last of pages.
	writing [][]item
	err     error
}

// put appends items.
func (t *pageWriter) put(items []item) {
	items = append(t.rest, items...)
	t.rest = nil
	size := sizeOf(items)
	if size < maxPage/4 {
		t.rest = items
		return
	}
	n := (size + maxPage - 1) / maxPage
	part, from := size/n, 0
	for i, got := 0, 0; i < len(items); i++ {
		if got += items[i].size(); got >= part || i == len(items)-1 {
			t.add(items[from : i+1])
			from, got = i+1, 0
		}
	}
}

// keep appends an unchanged page.
func (t *pageWriter) keep(p page) {
	t.flush()
	t.pages = append(t.pages, p)
}

// flushRest makes a page of what is left, however small.
func (t *pageWriter) flushRest() {
	if rest := t.rest; len(rest) > 0 {
		t.rest = nil
		t.add(rest)
	}
}

func (t *pageWriter) add(items []item) {
	id := rand.Text()
	t.pages = append(t.pages, page{items[0].key, id, oldestOf(items)})
	t.writing = append(t.writing, items)
	if len(t.writing) == parallel {
		t.flush()
	}
}

// flush writes what was put.
func (t *pageWriter) flush() {
	t.flushRest()
	n := len(t.writing)
	if n == 0 || t.err != nil {
		return
	}
	last := t.pages[len(t.pages)-n:]
	for _, p := range last {
		t.created = append(t.created, p.id)
	}
	t.err = inParallel(n, func(i int) error {
		_, err := t.l.putRaw(t.ctx, t.l.books, &t.l.booksHighRevision, pageKey(t.name, last[i].id), encodePage(t.writing[i]), 0)
		if errors.Is(err, errRolledBack) {
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
	err := retryMissingPages(ctx, func() (err error) {
		fields, next, err = l.scanBook(ctx, name, prefix, from)
		return err
	})
	if err != nil {
		return nil, "", fmt.Errorf("scan book %s: %w", name, err)
	}
	return fields, next, nil
}

// scanBook returns the fields from a key on, up to the end of its page.
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
	err := l.updateBook(ctx, name, func(h *head) (*head, []string, error) {
		if h.last == 0 || h.dropped {
			return nil, nil, nil
		}
		next := &head{last: h.last, dropped: true, droppedAt: l.now().Unix(), owners: h.owners}
		for _, p := range h.pages {
			next.replaced = append(next.replaced, p.id)
		}
		return next, nil, nil
	})
	if err != nil {
		return fmt.Errorf("drop book %s: %w", name, err)
	}
	return nil
}

// sweepBooks removes pages that no head names: of writers that died, and of dropped books. What cannot be removed now
// is found by the next sweep.
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
		// A writer may be about to name one of them. Writing the head again makes every earlier reader's write fail.
		if v.Revision, err = l.putRaw(ctx, l.books, &l.booksHighRevision, key, v.Data, v.Revision); err != nil {
			return err
		}
		if err := inParallel(len(orphans), func(i int) error { return l.books.Delete(ctx, orphans[i], 0) }); err != nil {
			return err
		}
	}
	if h.dropped && l.now().Sub(time.Unix(h.droppedAt, 0)) > keepDropped {
		return l.books.Delete(ctx, key, v.Revision)
	}
	return nil
}
