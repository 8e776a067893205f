package ledgertest_test

import (
	"fmt"
	"testing"

	"github.com/rs/zerolog"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/bus/server"
	"stockbridge/pkg/ledger"
)

// synced is a bus whose server syncs each write, as in production.
func synced(t testing.TB) *bus.Bus {
	t.Helper()
	s, err := server.Start(server.Options{Dir: t.TempDir(), Port: server.RandomPort, SyncAlways: true, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	b := bustest.Connect(t, s.URL())
	if _, err := b.Apply(t.Context(), bus.Topology{Replicas: 1}); err != nil {
		t.Fatal(err)
	}
	return b
}

// BenchmarkBooks applies movements to a book as a catch-up does: 500 rows at a time of 2 000 goods, their marks and goods
// read, all of it written. One iteration is one row.
func BenchmarkBooks(b *testing.B) {
	one := func() string { return "one" }
	for name, l := range map[string]ledger.Ledger{
		"redis": openRedis(b, nil), "kv": openKV(b, one, nil), "kv synced": openKVOn(b, synced(b), one, nil),
	} {
		b.Run(name, func(b *testing.B) {
			const goods, each = 2000, ledger.BookWriteLimit
			book := fmt.Sprintf("%s/%d", name, b.N)
			ctx := b.Context()
			var version uint64
			for row := 0; row < b.N; row += each {
				fields, marks := map[string]bool{}, make([]string, each)
				for i := range marks {
					marks[i] = fmt.Sprintf("%018d", 400_000_000_000+row+i)
					fields[fmt.Sprintf("goods/EMG44180%08d", (row+i)*7919%goods)] = true
				}
				names := make([]string, 0, len(fields))
				for f := range fields {
					names = append(names, f)
				}
				got, err := l.ReadBook(ctx, book, names, marks)
				if err != nil || got.Version != version || len(got.Marked) != 0 {
					b.Fatal(len(got.Marked), got.Version, version, err)
				}
				w := ledger.BookWrite{Version: version, Owner: fmt.Sprint(row), Fields: map[string][]byte{}}
				for _, f := range names {
					w.Fields[f] = make([]byte, 200)
				}
				for _, m := range marks {
					w.Marks = append(w.Marks, ledger.Mark{Name: m, At: got.EpochSince})
				}
				if version, err = l.WriteBook(ctx, book, w); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
