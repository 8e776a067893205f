package book_test

import (
	"slices"
	"testing"

	"stockbridge/pkg/book"
)

// An overview shows what books say now, also of those that it has read before.
func TestAnOverviewFollowsItsBooks(t *testing.T) {
	type head struct{ N int }
	l, _ := open(t)
	o := book.NewOverview[head](l, "head")
	put := func(name string, v any) {
		t.Helper()
		if err := book.Update(t.Context(), l, name, []string{"head"}, nil, func(tx *book.Tx) error { tx.Put("head", v); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	is := func(want ...head) {
		t.Helper()
		if got, err := o.Read(t.Context(), []string{"a", "b", "none"}); err != nil || !slices.Equal(got, want) {
			t.Errorf("read %v, %v, want %v", got, err, want)
		}
	}
	is(head{}, head{}, head{})
	put("a", head{1})
	put("b", head{2})
	is(head{1}, head{2}, head{})
	put("b", head{3})
	is(head{1}, head{3}, head{})
	put("a", "no head")
	if _, err := o.Read(t.Context(), []string{"a"}); err == nil {
		t.Error("a field that cannot be read passes")
	}
	if err := l.DropBook(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	is(head{}, head{3}, head{})
}
