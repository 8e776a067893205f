package stock_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/ledger/inkv"
	"stockbridge/pkg/ledger/inredis"
	"stockbridge/pkg/ledger/redistest"
	"stockbridge/pkg/stock"
)

// each runs a test over both ledgers, each on a real server.
func each(t *testing.T, test func(t *testing.T, s *stock.Store)) {
	t.Run("redis", func(t *testing.T) {
		l, err := inredis.Open(inredis.Options{URL: redistest.Start(t).URL()})
		run(t, l, err, test)
	})
	t.Run("kv", func(t *testing.T) {
		b := bustest.Start(t)
		bucket, err := b.Bucket(t.Context(), bus.BucketLedger)
		if err != nil {
			t.Fatal(err)
		}
		books, err := b.Bucket(t.Context(), bus.BucketBooks)
		if err != nil {
			t.Fatal(err)
		}
		l, err := inkv.Open(t.Context(), inkv.Options{Bucket: bucket, Books: books, Identity: func() string { return "one" }})
		run(t, l, err, test)
	})
}

func run(t *testing.T, l ledger.Ledger, err error, test func(t *testing.T, s *stock.Store)) {
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	test(t, &stock.Store{Books: l})
}

var place = stock.Place{Seller: "acme", Warehouse: "W 1", ShopNo: "ESP/1"}

func rows(n, goods int) []stock.Row {
	var list []stock.Row
	for i := range n {
		g := i % goods
		list = append(list, stock.Row{
			GoodsNo: fmt.Sprint("G", g), GoodsCode: "C",
			Movement: stock.Movement{No: fmt.Sprint("F", i), At: int64(1000 + i), Before: int64(i / goods), After: int64(i/goods) + 1, Change: 1, Linked: true},
		})
	}
	return list
}

func TestRowsThatSeveralApplyAtOnceCountOnce(t *testing.T) {
	each(t, func(t *testing.T, s *stock.Store) {
		list := rows(900, 3) // several writes each
		applied := make([]int, 4)
		var all sync.WaitGroup
		for i := range applied {
			all.Go(func() {
				n, err := s.Apply(t.Context(), place, stock.Batch{Rows: list, Read: []stock.Interval{{From: 1000, To: 2000}}, Done: []string{"gap"}})
				if err != nil {
					t.Error(err)
				}
				applied[i] = n
			})
		}
		all.Wait()
		if sum := applied[0] + applied[1] + applied[2] + applied[3]; sum != len(list) {
			t.Errorf("%v rows applied, want %d together", applied, len(list))
		}
		f, err := s.Figure(t.Context(), place, "G1")
		if err != nil || f.Num != 300 || f.Proof != stock.Proved || f.Rows != 300 || f.GoodsCode != "C" || !f.Last.Equal(time.Unix(1898, 0)) {
			t.Errorf("%+v, %v", f, err)
		}
		st, err := s.State(t.Context(), place)
		if err != nil || st.Epoch.IsZero() || !st.Read.Has(stock.Interval{From: 1000, To: 2000}) {
			t.Errorf("%+v, %v", st, err)
		}
		known, err := s.Known(t.Context(), place, []string{"F1", "F899", "F900", "gap", "other"})
		if err != nil || len(known) != 3 || !known["gap"] || known["F900"] {
			t.Errorf("known %v, %v", known, err)
		}
	})
}

func TestGoodsWithGapsAreListedUntilTheyAreFilled(t *testing.T) {
	each(t, func(t *testing.T, s *stock.Store) {
		list := rows(30, 2)
		missing := list[10]
		apply := func(rows ...stock.Row) {
			t.Helper()
			if _, err := s.Apply(t.Context(), place, stock.Batch{Rows: rows}); err != nil {
				t.Fatal(err)
			}
		}
		apply(append(append([]stock.Row(nil), list[:10]...), list[11:]...)...)
		gaps, _, err := s.Broken(t.Context(), place, "")
		if err != nil || len(gaps) != 1 || len(gaps["G0"]) != 1 {
			t.Fatalf("%v, %v", gaps, err)
		}
		apply(missing)
		if gaps, _, err := s.Broken(t.Context(), place, ""); err != nil || len(gaps) != 0 {
			t.Errorf("%v, %v", gaps, err)
		}
		if err := s.Drop(t.Context(), place); err != nil {
			t.Fatal(err)
		}
		if f, err := s.Figure(t.Context(), place, "G0"); err != nil || f.Rows != 0 {
			t.Errorf("%+v of a book that was dropped, %v", f, err)
		}
	})
}
