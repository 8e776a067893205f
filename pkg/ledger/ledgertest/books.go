package ledgertest

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"stockbridge/pkg/ledger"
)

const bookName = "vmi/acme/110015/S01"

// write is a write by a new owner, of fields given as name, value, …; "-" removes.
func (b *bench) write(version uint64, fields ...string) ledger.BookWrite {
	b.owners++
	w := ledger.BookWrite{Version: version, Owner: fmt.Sprintf("owner-%d", b.owners), Fields: map[string][]byte{}}
	for i := 0; i < len(fields); i += 2 {
		w.Fields[fields[i]] = []byte(fields[i+1])
		if fields[i+1] == "-" {
			w.Fields[fields[i]] = nil
		}
	}
	return w
}

func (b *bench) writes(w ledger.BookWrite) uint64 {
	b.Helper()
	version, err := b.WriteBook(b.ctx, bookName, w)
	b.must(err)
	return version
}

func (b *bench) reads(fields, marks []string) ledger.Book {
	b.Helper()
	book, err := b.ReadBook(b.ctx, bookName, fields, marks)
	b.must(err)
	return book
}

// book reads fields and marks and formats them as text.
func (b *bench) book(names ...string) string {
	b.Helper()
	book := b.reads(names, names)
	var out []string
	for _, name := range names {
		value, ok := book.Fields[name]
		said := name + "=" + string(value)
		if !ok {
			said = name
		}
		if book.Marked[name] {
			said += "!"
		}
		out = append(out, said)
	}
	return strings.Join(out, " ")
}

func (b *bench) isBook(want string, names ...string) {
	b.Helper()
	if got := b.book(names...); got != want {
		b.Errorf("the book says %s, want %s", got, want)
	}
}

func testBook(b *bench) {
	empty := b.reads([]string{"cursor"}, []string{"F1"})
	if empty.Version != 0 || len(empty.Fields) != 0 || len(empty.Marked) != 0 {
		b.Errorf("no book, returned as %+v", empty)
	}
	if !empty.EpochSince.Equal(b.now()) {
		b.Errorf("epoch since %s, first asked at %s", empty.EpochSince, b.now())
	}
	first := b.write(0, "cursor", "1", "单\x00\xff", "不\x00\xfe", "empty", "")
	first.Marks = []ledger.Mark{{Name: "F1", At: b.now()}, {Name: "流\x01", At: b.now()}}
	v1 := b.writes(first)
	b.isBook("cursor=1 单\x00\xff=不\x00\xfe empty= none F1! 流\x01!", "cursor", "单\x00\xff", "empty", "none", "F1", "流\x01")
	if book := b.reads(nil, nil); book.Version != v1 || v1 == 0 || !book.EpochSince.Equal(empty.EpochSince) {
		b.Errorf("version %d, returned as %d; epoch since %s", v1, book.Version, book.EpochSince)
	}
	v2 := b.writes(b.write(v1, "cursor", "2", "empty", "-", "never", "-"))
	if v2 <= v1 {
		b.Errorf("version %d after %d", v2, v1)
	}
	b.isBook("cursor=2 empty never F1!", "cursor", "empty", "never", "F1")
	if value, ok := b.reads([]string{"单\x00\xff"}, nil).Fields["单\x00\xff"]; !ok || string(value) != "不\x00\xfe" {
		b.Errorf("any bytes: %q", value)
	}
	// Another book is separate.
	other, err := b.ReadBook(b.ctx, bookName+"2", []string{"cursor"}, []string{"F1"})
	if err != nil || other.Version != 0 || len(other.Fields)+len(other.Marked) != 0 {
		b.Errorf("%+v, %v", other, err)
	}
}

func testReadMany(b *bench) {
	b.writes(b.write(0, "head", "1", "else", "2"))
	const n = 1200 // more than one round trip
	names, want := make([]string, n), make([]map[string][]byte, n)
	for i := range n {
		names[i], want[i] = fmt.Sprintf("vmi/none-%d", i), map[string][]byte{}
	}
	for _, i := range []int{3, n - 1} {
		names[i], want[i] = bookName, map[string][]byte{"head": []byte("1")}
	}
	got, err := b.ReadMany(b.ctx, names, []string{"head", "none"})
	b.must(err)
	if !reflect.DeepEqual(got, want) {
		b.Errorf("books that are there, and others: %v", got)
	}
	if got, err := b.ReadMany(b.ctx, nil, []string{"head"}); err != nil || len(got) != 0 {
		b.Errorf("of none: %v, %v", got, err)
	}
}

func testBookVersion(b *bench) {
	v1 := b.writes(b.write(0, "a", "1"))
	for _, version := range []uint64{0, v1 - 1, v1 + 1} {
		w := b.write(version, "a", "2", "b", "2")
		w.Marks = []ledger.Mark{{Name: "b", At: b.now()}}
		if _, err := b.WriteBook(b.ctx, bookName, w); !errors.Is(err, ledger.ErrVersion) {
			b.Errorf("written as of %d though it is at %d: %v", version, v1, err)
		}
	}
	if _, err := b.WriteBook(b.ctx, "none", b.write(7, "a", "1")); !errors.Is(err, ledger.ErrVersion) {
		b.Errorf("a book that is not there, as of 7: %v", err)
	}
	b.isBook("a=1 b", "a", "b")
	if book := b.reads(nil, nil); book.Version != v1 {
		b.Errorf("nothing was written, and the version went from %d to %d", v1, book.Version)
	}
}

// testBookOwner: a lost answer is given again, and the write is done once.
func testBookOwner(b *bench) {
	first := b.write(0, "n", "1")
	v1 := b.writes(first)
	second := b.write(v1, "n", "2")
	second.Marks = []ledger.Mark{{Name: "F2", At: b.now()}}
	v2 := b.writes(second)
	for range 2 {
		if again := b.writes(second); again != v2 {
			b.Errorf("asked again: %d, at first %d", again, v2)
		}
	}
	// Also when others have written since.
	version := v2
	for i := range ledger.KeepOwners - 2 {
		version = b.writes(b.write(version, "n", strconv.Itoa(i+3)))
	}
	if again := b.writes(first); again != v1 {
		b.Errorf("the first asked again: %d, at first %d", again, v1)
	}
	if again := b.writes(second); again != v2 {
		b.Errorf("the second asked again: %d, at first %d", again, v2)
	}
	b.isBook(fmt.Sprintf("n=%d F2!", ledger.KeepOwners), "n", "F2")
}

func testBookMarks(b *bench) {
	old, young := b.now().Add(-ledger.KeepMarks), b.now()
	w := b.write(0)
	w.Marks = []ledger.Mark{{Name: "old", At: old.Add(2 * time.Second)}, {Name: "over", At: old}, {Name: "young", At: young}, {Name: "ancient", At: time.Time{}}, {Name: "again", At: old.Add(time.Second)}}
	version := b.writes(w)
	names := []string{"old", "over", "young", "ancient", "again"}
	b.isBook("old! over young! ancient again!", names...)
	w = b.write(version)
	w.Marks = []ledger.Mark{{Name: "again", At: young}}
	version = b.writes(w)
	b.clock.Add(time.Second)
	b.isBook("old! over young! ancient again!", names...)
	b.clock.Add(time.Second)
	b.isBook("old over young! ancient again!", names...)
	// A write drops expired marks, and only those.
	for i := range 20 {
		w := b.write(version, "pad", strings.Repeat("x", ledger.MaxField))
		w.Marks = []ledger.Mark{{Name: fmt.Sprint(i), At: b.now()}}
		version = b.writes(w)
	}
	b.isBook("old over young! ancient again! 0! 19!", append(names, "0", "19")...)
	b.clock.Add(ledger.KeepMarks)
	b.isBook("old over young ancient again 0 19", append(names, "0", "19")...)
	b.writes(b.write(version, "pad", "-"))
	b.isBook("old over young ancient again 0 19", append(names, "0", "19")...)
}

// testBookLarge fills a book with more than any store keeps in one place, and reads all of it back.
func testBookLarge(b *bench) {
	const rounds, each = 12, 100
	var version uint64
	want := map[string]string{}
	value := func(round, i int) string { return strings.Repeat(fmt.Sprintf("%d.%d ", round, i), 60) }
	for round := range rounds {
		w := b.write(version)
		for i := range each {
			// Some are new, some exist, some are removed.
			name := fmt.Sprintf("goods/%d", (round*61+i*7)%907)
			want[name] = value(round, i)
			w.Fields[name] = []byte(want[name])
			w.Marks = append(w.Marks, ledger.Mark{Name: fmt.Sprintf("F%06d", round*each+i), At: b.now()})
		}
		if round%3 == 2 {
			gone := slices.Sorted(maps.Keys(want))[round]
			w.Fields[gone] = nil
			delete(want, gone)
		}
		version = b.writes(w)
	}
	names := slices.Sorted(maps.Keys(want))
	for chunk := range slices.Chunk(names, 300) {
		book := b.reads(chunk, nil)
		for _, name := range chunk {
			if string(book.Fields[name]) != want[name] {
				b.Fatalf("%s is %.20q, want %.20q", name, book.Fields[name], want[name])
			}
		}
	}
	var marks []string
	for i := range rounds*each + 100 {
		marks = append(marks, fmt.Sprintf("F%06d", i))
	}
	stand := 0
	for chunk := range slices.Chunk(marks, ledger.BookWriteLimit) {
		stand += len(b.reads(nil, chunk).Marked)
	}
	if stand != rounds*each {
		b.Errorf("%d marks stand, want %d", stand, rounds*each)
	}
	got := b.scan("")
	if len(got) != len(want) {
		b.Errorf("%d fields get, want %d", len(got), len(want))
	}
	for name, value := range got {
		if value != want[name] {
			b.Errorf("%s is returned as %.20q, want %.20q", name, value, want[name])
		}
	}
	b.must(b.DropBook(b.ctx, bookName))
	if got := b.scan(""); len(got) != 0 {
		b.Errorf("%d fields after it was dropped", len(got))
	}
}

func (b *bench) scan(prefix string) map[string]string {
	b.Helper()
	got := map[string]string{}
	for from := ""; ; {
		fields, next, err := b.ScanBook(b.ctx, bookName, prefix, from)
		b.must(err)
		for _, f := range fields {
			got[f.Name] = string(f.Value)
		}
		if next == "" {
			return got
		}
		from = next
	}
}

// testBookScan: a scan returns every field that begins with the prefix, also while others are written, removed and
// added.
func testBookScan(b *bench) {
	var version uint64
	want := 0
	for round := range 6 {
		w := b.write(version)
		for i := range 100 {
			w.Fields[fmt.Sprintf("g/%d", round*100+i)] = []byte(strings.Repeat("x", 300))
			w.Fields[fmt.Sprintf("f/%d", round*100+i)] = []byte("y")
			w.Fields[fmt.Sprintf("g*%d", round*100+i)] = []byte("z")
			want++
		}
		version = b.writes(w)
	}
	if got := b.scan("g*"); len(got) != want {
		b.Errorf("%d begin with g*, want %d: a prefix is no pattern", len(got), want)
	}
	if got := b.scan("none"); len(got) != 0 {
		b.Errorf("%d begin with none", len(got))
	}
	got, turn := map[string]bool{}, 0
	for from := ""; ; {
		fields, next, err := b.ScanBook(b.ctx, bookName, "g/", from)
		b.must(err)
		if len(fields) > want/2 {
			b.Errorf("%d fields at a time", len(fields))
		}
		for _, f := range fields {
			if !strings.HasPrefix(f.Name, "g/") {
				b.Fatalf("read: %s", f.Name)
			}
			got[f.Name] = true
		}
		if next == "" {
			break
		}
		from = next
		w := b.write(version)
		for i := range 60 {
			w.Fields[fmt.Sprintf("g/%d", (turn*60+i)%600)] = []byte(strings.Repeat("w", 200))
			w.Fields[fmt.Sprintf("g/new%d-%d", turn, i)] = []byte(strings.Repeat("n", 500))
			w.Fields[fmt.Sprintf("f/%d", turn*60+i)] = nil
		}
		version = b.writes(w)
		if turn++; turn > 1000 {
			b.Fatal("it never ends")
		}
	}
	for i := range want {
		if !got[fmt.Sprintf("g/%d", i)] {
			b.Errorf("g/%d was there all the time and was not returned", i)
		}
	}
}

// testBookDrop: after it, and after the loss of everything, the book is empty and its versions continue.
func testBookDrop(b *bench) {
	b.must(b.DropBook(b.ctx, bookName))
	seen := map[uint64]bool{}
	write := func(version uint64) uint64 {
		b.Helper()
		w := b.write(version, "a", "1")
		w.Marks = []ledger.Mark{{Name: "F1", At: b.now()}}
		v := b.writes(w)
		if seen[v] {
			b.Errorf("version %d came again", v)
		}
		seen[v] = true
		return v
	}
	var version uint64
	for range 3 {
		version = write(write(write(0)))
		epochSince := b.reads(nil, nil).EpochSince
		b.must(b.DropBook(b.ctx, bookName))
		b.must(b.DropBook(b.ctx, bookName))
		b.isBook("a F1", "a", "F1")
		if book := b.reads(nil, nil); book.Version != 0 || !book.EpochSince.Equal(epochSince) {
			b.Errorf("dropped, and returned as version %d of a ledger with an epoch since %s, before at %s", book.Version, book.EpochSince, epochSince)
		}
		if _, err := b.WriteBook(b.ctx, bookName, b.write(version, "a", "2")); !errors.Is(err, ledger.ErrVersion) {
			b.Errorf("written as of before the drop: %v", err)
		}
	}
	b.clock.Add(25 * time.Hour) // by then nothing is remembered of it
	version = write(0)
	epochSince := b.reads(nil, nil).EpochSince
	b.clock.Add(time.Second)
	b.store.Wipe()
	book := b.reads([]string{"a"}, []string{"F1"})
	if book.Version != 0 || len(book.Fields)+len(book.Marked) != 0 || !book.EpochSince.Equal(b.now()) {
		b.Errorf("wiped, and returned as %+v", book)
	}
	if v := write(0); v <= version {
		b.Errorf("version %d after %d, which was lost", v, version)
	}
	b.clock.Add(time.Second)
	b.store.Restart()
	b.isBook("a=1 F1!", "a", "F1")
	if again := b.reads(nil, nil).EpochSince; !again.After(epochSince) {
		b.Errorf("restarted, and the epoch is the previous one: %s", again)
	}
}

func testBookLimits(b *bench) {
	long := strings.Repeat("n", ledger.MaxName+1)
	tooMany := b.write(0)
	manyMarks := b.write(0)
	var names []string
	for i := range ledger.BookWriteLimit + 1 {
		names = append(names, strconv.Itoa(i))
		tooMany.Fields[strconv.Itoa(i)] = []byte("x")
		manyMarks.Marks = append(manyMarks.Marks, ledger.Mark{Name: strconv.Itoa(i), At: b.now()})
	}
	heavy := b.write(0)
	for i := range ledger.BookWriteBytes/ledger.MaxField + 1 {
		heavy.Fields[strconv.Itoa(i)] = make([]byte, ledger.MaxField)
	}
	longMark := b.write(0)
	longMark.Marks = []ledger.Mark{{Name: strings.Repeat("m", ledger.MaxMark+1), At: b.now()}}
	noMark := b.write(0)
	noMark.Marks = []ledger.Mark{{Name: "", At: b.now()}}
	noOwner := b.write(0, "a", "1")
	noOwner.Owner = ""
	for _, test := range []struct {
		names string
		book  string
		w     ledger.BookWrite
	}{
		{"BookWriteLimit", bookName, tooMany},
		{"BookWriteLimit", bookName, manyMarks},
		{"BookWriteBytes", bookName, heavy},
		{"MaxField", bookName, b.write(0, "a", strings.Repeat("x", ledger.MaxField+1))},
		{"name of a field: 257 bytes, 256 at most", bookName, b.write(0, long, "1")},
		{"name of a field: empty", bookName, b.write(0, "", "1")},
		{"name of a mark: 65 bytes, 64 at most", bookName, longMark},
		{"name of a mark: empty", bookName, noMark},
		{"name of a book: 257 bytes, 256 at most", long, b.write(0, "a", "1")},
		{"name of a book: empty", "", b.write(0, "a", "1")},
		{"owner: empty", bookName, noOwner},
	} {
		if _, err := b.WriteBook(b.ctx, test.book, test.w); err == nil || !strings.Contains(err.Error(), test.names) {
			b.Errorf("%s: %v", test.names, err)
		}
	}
	for _, n := range [][2][]string{{names, nil}, {nil, names}} {
		if _, err := b.ReadBook(b.ctx, bookName, n[0], n[1]); err == nil || !strings.Contains(err.Error(), "BookWriteLimit") {
			b.Errorf("too much is asked for: %v", err)
		}
	}
	if book := b.reads(nil, nil); book.Version != 0 {
		b.Errorf("refused, and written as version %d", book.Version)
	}
	// As much as is allowed.
	full := b.write(0)
	for i := range ledger.BookWriteLimit {
		full.Fields[strings.Repeat("f", ledger.MaxName-3)+fmt.Sprintf("%03d", i)] = make([]byte, 700)
		full.Marks = append(full.Marks, ledger.Mark{Name: strings.Repeat("m", ledger.MaxMark-3) + fmt.Sprintf("%03d", i), At: b.now()})
	}
	b.writes(full)
	marks := make([]string, len(full.Marks))
	for i, m := range full.Marks {
		marks[i] = m.Name
	}
	fields := slices.Collect(maps.Keys(full.Fields))
	if book := b.reads(fields, marks); len(book.Fields) != len(fields) || len(book.Marked) != len(marks) {
		b.Errorf("%d fields and %d marks were kept", len(book.Fields), len(book.Marked))
	}
}

// testBookRace: writers that read, add one and write lose nothing, over two handles.
func testBookRace(b *bench) {
	handles := []ledger.Ledger{b.Ledger, b.store.Open(b.clock.Now)}
	const workers, each = 8, 12
	var wg sync.WaitGroup
	for w := range workers {
		l := handles[w%2]
		wg.Go(func() {
			for i := 0; i < each; {
				own := fmt.Sprintf("n%d", w)
				book, err := l.ReadBook(b.ctx, bookName, []string{"n", own, "pad"}, nil)
				if err != nil {
					b.Error(err)
					return
				}
				add := func(name string) []byte {
					n, _ := strconv.Atoi(string(book.Fields[name]))
					return strconv.AppendInt(nil, int64(n+1), 10)
				}
				_, err = l.WriteBook(b.ctx, bookName, ledger.BookWrite{
					Version: book.Version, Owner: fmt.Sprintf("%d/%d/%d", w, i, book.Version),
					// The padding moves the rest from the head into pages again and again.
					Fields: map[string][]byte{"n": add("n"), own: add(own), fmt.Sprintf("pad%d", i): make([]byte, 20_000)},
					Marks:  []ledger.Mark{{Name: fmt.Sprintf("%d/%d", w, i), At: b.now()}},
				})
				switch {
				case err == nil:
					i++
				case !errors.Is(err, ledger.ErrVersion):
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	want, names := fmt.Sprintf("n=%d", workers*each), []string{"n"}
	for w := range workers {
		want += fmt.Sprintf(" n%d=%d", w, each)
		names = append(names, fmt.Sprintf("n%d", w))
		for i := range each {
			want += fmt.Sprintf(" %d/%d!", w, i)
			names = append(names, fmt.Sprintf("%d/%d", w, i))
		}
	}
	sorted := strings.Fields(want)
	got := strings.Fields(b.book(names...))
	slices.Sort(sorted)
	slices.Sort(got)
	if !slices.Equal(got, sorted) {
		b.Errorf("the book says %v, want %v", got, sorted)
	}
}
