package book_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"stockbridge/pkg/book"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/ledger/inredis"
	"stockbridge/pkg/ledger/redistest"
)

func open(t *testing.T) (ledger.Ledger, *redistest.Server) {
	t.Helper()
	server := redistest.Start(t)
	l, err := inredis.Open(inredis.Options{URL: server.URL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, server
}

func TestChangesThatSeveralMakeAtOnceAreAllMade(t *testing.T) {
	t.Parallel()
	l, _ := open(t)
	const writers, each = 8, 20
	var all sync.WaitGroup
	for i := range writers {
		all.Go(func() {
			for j := range each {
				err := book.Update(t.Context(), l, "b", []string{"n"}, nil, func(tx *book.Tx) error {
					n := 0
					if _, err := tx.Get("n", &n); err != nil {
						return err
					}
					tx.Put("n", n+1)
					tx.Mark(fmt.Sprint(i, "/", j), time.Now())
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	tx, err := book.Read(t.Context(), l, "b", []string{"n"}, []string{"3/7", "9/9"})
	if err != nil {
		t.Fatal(err)
	}
	if !tx.Marked["3/7"] || tx.Marked["9/9"] || string(tx.Value("n")) != fmt.Sprint(writers*each) {
		t.Errorf("%+v", tx.Book)
	}
}

func TestAChangeThatWritesNothingOnlyReads(t *testing.T) {
	t.Parallel()
	l, _ := open(t)
	never := errors.New("never mind")
	for _, change := range []func(*book.Tx) error{
		func(*book.Tx) error { return nil },
		func(tx *book.Tx) error { tx.Put("a", 1); tx.Keep("a"); tx.Drop("b"); return nil },
		func(tx *book.Tx) error { tx.Put("a", 1); return never },
	} {
		if err := book.Update(t.Context(), l, "b", []string{"a", "b"}, nil, change); err != nil && !errors.Is(err, never) {
			t.Fatal(err)
		}
	}
	if tx, err := book.Read(t.Context(), l, "b", nil, nil); err != nil || tx.Version != 0 {
		t.Errorf("version %d, %v", tx.Version, err)
	}
}

func TestWhatWasPutIsWhatIsRead(t *testing.T) {
	t.Parallel()
	l, _ := open(t)
	err := book.Update(t.Context(), l, "b", []string{"a"}, []string{"m"}, func(tx *book.Tx) error {
		tx.Put("a", map[string]int{"x": 1})
		got := map[string]int{}
		if found, err := tx.Get("a", &got); !found || err != nil || got["x"] != 1 {
			t.Errorf("%v, %v, %v", found, got, err)
		}
		tx.Drop("a")
		if found, err := tx.Get("a", &got); found || err != nil {
			t.Errorf("found %v although it was dropped, %v", found, err)
		}
		tx.Set("a", []byte("no JSON"))
		if _, err := tx.Get("a", &got); !errors.Is(err, book.ErrField) {
			t.Errorf("%v", err)
		}
		if tx.Mark("m", time.Now()); !tx.Marked["m"] {
			t.Error("a mark that was set does not count")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	fields := 0
	err = book.Scan(t.Context(), l, "b", "a", func(f ledger.Field) error { fields++; return nil })
	if err != nil || fields != 1 {
		t.Errorf("%d fields, %v", fields, err)
	}
}

// Writers that others always overtake give up when their time is over, and say why.
func TestAWriterGivesUpWhenItsTimeIsOver(t *testing.T) {
	t.Parallel()
	l, _ := open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := book.Update(ctx, overtaken{l}, "b", nil, nil, func(tx *book.Tx) error { tx.Put("a", 1); return nil })
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

type overtaken struct{ ledger.Books }

func (overtaken) WriteBook(context.Context, string, ledger.BookWrite) (uint64, error) {
	return 0, ledger.ErrVersion
}

func TestABookOfAnotherEpochMayBeOlder(t *testing.T) {
	t.Parallel()
	l, server := open(t)
	write := func(tx *book.Tx) error { tx.Put("epoch", tx.EpochSince); return nil }
	if err := book.Update(t.Context(), l, "b", nil, nil, write); err != nil {
		t.Fatal(err)
	}
	older := func() bool {
		t.Helper()
		tx, err := book.Read(t.Context(), l, "b", []string{"epoch"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var epoch time.Time
		if _, err := tx.Get("epoch", &epoch); err != nil {
			t.Fatal(err)
		}
		return tx.MayBeOlder(epoch)
	}
	if older() {
		t.Error("nothing happened to the ledger")
	}
	copied := server.Copy()
	server.Restore(copied)
	if !older() {
		t.Error("the ledger was restored to an older copy")
	}
}
