package inkv

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
)

const (
	// maxPage is the size above which a page is split, bytes.
	maxPage = 64 << 10
	// maxRecent is how much a head holds itself before it is moved into the pages, bytes. Every write writes all of
	// it.
	maxRecent = 64 << 10
	// formatVersion is the first byte of a head and of a page.
	formatVersion = 1
)

// item is a field or a mark of a book. In a page or a head items are sorted by key.
type item struct {
	// key is the kind and the name.
	key string
	// value of a field; of a mark its time, Unix seconds, as a varint. Nil when it was removed, which only a head
	// records.
	value []byte
}

// Kinds of items. Fields come first.
const (
	fieldKind = "f"
	markKind  = "m"
)

func markItem(name string, at int64) item {
	return item{markKind + name, binary.AppendVarint(nil, at)}
}

// markedAt is the time of a mark, Unix seconds.
func (i item) markedAt() (at int64, ok bool) {
	if !strings.HasPrefix(i.key, markKind) {
		return 0, false
	}
	at, n := binary.Varint(i.value)
	return at, n > 0
}

// expired reports whether it is a mark that is no longer kept; cut is the last expired second.
func (i item) expired(cut int64) bool {
	at, ok := i.markedAt()
	return ok && at <= cut
}

func (i item) size() int { return len(i.key) + len(i.value) + 4 }

func sizeOf(items []item) (n int) {
	for _, i := range items {
		n += i.size()
	}
	return n
}

func sortItems(items []item) {
	slices.SortFunc(items, func(a, b item) int { return strings.Compare(a.key, b.key) })
}

// find finds a key.
func find(items []item, key string) (item, bool) {
	at, ok := slices.BinarySearchFunc(items, key, func(i item, key string) int { return strings.Compare(i.key, key) })
	if !ok {
		return item{}, false
	}
	return items[at], true
}

// merge lays newer items over older ones.
func merge(older, newer []item) []item {
	out := make([]item, 0, len(older)+len(newer))
	for len(older) > 0 && len(newer) > 0 {
		switch c := cmp.Compare(older[0].key, newer[0].key); {
		case c < 0:
			out, older = append(out, older[0]), older[1:]
		default:
			if c == 0 {
				older = older[1:]
			}
			out, newer = append(out, newer[0]), newer[1:]
		}
	}
	return append(append(out, older...), newer...)
}

// withoutExpired keeps what stays in a page: removed fields and expired marks are dropped.
func withoutExpired(items []item, cut int64) []item {
	return slices.DeleteFunc(items, func(i item) bool { return i.value == nil || i.expired(cut) })
}

// page is what a head records about a page.
type page struct {
	// first is its first key; it holds the keys from there up to the next page's first.
	first string
	// id names it in the bucket. It is never reused.
	id string
	// oldest is when the oldest of its marks was set, Unix seconds; math.MaxInt64 when it has none.
	oldest int64
}

func oldestOf(items []item) int64 {
	oldest := int64(math.MaxInt64)
	for _, i := range items {
		if at, ok := i.markedAt(); ok {
			oldest = min(oldest, at)
		}
	}
	return oldest
}

// pageOf is the index of the page that would hold key. There must be a page.
func pageOf(all []page, key string) int {
	return max(sort.Search(len(all), func(i int) bool { return all[i].first > key })-1, 0)
}

// bookWriter is a write that a head remembers, for callers that ask again.
type bookWriter struct {
	owner   string
	version uint64
}

// head is a book except for its pages.
type head struct {
	// last is the version of the last write. dropped: the book was dropped since, and only its versions continue.
	last    uint64
	dropped bool
	// droppedAt is when, Unix seconds.
	droppedAt int64
	owners    []bookWriter
	pages     []page
	// replaced are pages that it named before.
	replaced []string
	// recent is what was written last, sorted; it takes precedence over the pages.
	recent []item
}

// version as callers know it.
func (h *head) version() uint64 {
	if h.dropped {
		return 0
	}
	return h.last
}

func (h *head) versionBy(owner string) (version uint64, ok bool) {
	for _, w := range h.owners {
		if w.owner == owner {
			return w.version, true
		}
	}
	return 0, false
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendItems(b []byte, items []item) []byte {
	b = binary.AppendUvarint(b, uint64(len(items)))
	for _, i := range items {
		b = appendText(b, i.key)
		if i.value == nil {
			b = binary.AppendUvarint(b, 0)
			continue
		}
		b = append(binary.AppendUvarint(b, uint64(len(i.value))+1), i.value...)
	}
	return b
}

func encodePage(items []item) []byte { return appendItems([]byte{formatVersion}, items) }

func (h *head) encode() []byte {
	b := make([]byte, 0, sizeOf(h.recent)+len(h.pages)*64+1024)
	b = binary.AppendUvarint(append(b, formatVersion), h.last)
	dropped := byte(0)
	if h.dropped {
		dropped = 1
	}
	b = binary.AppendVarint(append(b, dropped), h.droppedAt)
	b = binary.AppendUvarint(b, uint64(len(h.owners)))
	for _, w := range h.owners {
		b = binary.AppendUvarint(appendText(b, w.owner), w.version)
	}
	b = binary.AppendUvarint(b, uint64(len(h.pages)))
	for _, p := range h.pages {
		b = binary.AppendVarint(appendText(appendText(b, p.first), p.id), p.oldest)
	}
	b = binary.AppendUvarint(b, uint64(len(h.replaced)))
	for _, id := range h.replaced {
		b = appendText(b, id)
	}
	return appendItems(b, h.recent)
}

// decoder decodes a head or a page. After the first error everything else fails.
type decoder struct {
	left string
	bad  bool
}

func (r *decoder) uint() uint64 {
	var x uint64
	for i := 0; i < len(r.left) && i < binary.MaxVarintLen64; i++ {
		x |= uint64(r.left[i]&0x7f) << (7 * i)
		if r.left[i] < 0x80 {
			r.left = r.left[i+1:]
			return x
		}
	}
	r.left, r.bad = "", true
	return 0
}

func (r *decoder) int() int64 {
	x := r.uint()
	return int64(x>>1) ^ -int64(x&1) // as binary.Varint
}

func (r *decoder) take(n uint64) string {
	if n > uint64(len(r.left)) {
		r.left, r.bad = "", true
		return ""
	}
	s := r.left[:n]
	r.left = r.left[n:]
	return s
}

func (r *decoder) text() string { return r.take(r.uint()) }

// count reads the number of things that are at least a byte each.
func (r *decoder) count() int {
	n := r.uint()
	if n > uint64(len(r.left)) {
		r.left, r.bad = "", true
		return 0
	}
	return int(n)
}

func (r *decoder) items() []item {
	n := r.count()
	items := make([]item, 0, n)
	for range n {
		i := item{key: r.text()}
		if size := r.uint(); size > 0 {
			i.value = []byte(r.take(size - 1))
		}
		items = append(items, i)
	}
	return items
}

func (r *decoder) end() error {
	if r.bad || r.left != "" {
		return errors.New("cut short, or not what this build writes")
	}
	return nil
}

func newDecoder(raw []byte) (*decoder, error) {
	if len(raw) == 0 || raw[0] != formatVersion {
		return nil, fmt.Errorf("not written in form %d: by a later version?", formatVersion)
	}
	return &decoder{left: string(raw[1:])}, nil
}

func decodePage(raw []byte) ([]item, error) {
	r, err := newDecoder(raw)
	if err != nil {
		return nil, err
	}
	items := r.items()
	return items, r.end()
}

func decodeHead(raw []byte) (*head, error) {
	r, err := newDecoder(raw)
	if err != nil {
		return nil, err
	}
	h := &head{last: r.uint(), dropped: r.take(1) == "\x01", droppedAt: r.int()}
	for range r.count() {
		h.owners = append(h.owners, bookWriter{r.text(), r.uint()})
	}
	for range r.count() {
		h.pages = append(h.pages, page{r.text(), r.text(), r.int()})
	}
	for range r.count() {
		h.replaced = append(h.replaced, r.text())
	}
	h.recent = r.items()
	return h, r.end()
}
