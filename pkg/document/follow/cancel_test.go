package follow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"stockbridge/pkg/event"
	"stockbridge/pkg/kind/order"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/warehouse/memory"
	documentv1 "stockbridge/proto/document/v1"
	purchasev1 "stockbridge/proto/purchase/v1"
)

func (b *fixture) wish(k ledger.Key, id string) {
	b.t.Helper()
	if _, err := b.all.WantCancel(b.t.Context(), k, ledger.Cancel{RequestID: id}); err != nil {
		b.t.Fatal(err)
	}
	b.wait(time.Second)
}

// cancel asks the warehouse as the worker does that receives the request.
func (b *fixture) cancel(k ledger.Key) {
	b.t.Helper()
	if _, err := b.wh.Purchases().Cancel(b.t.Context(), b.entry(k).Number); err != nil {
		b.t.Fatal(err)
	}
}

func (b *fixture) entry(k ledger.Key) ledger.Entry {
	b.t.Helper()
	e, err := b.all.Get(b.t.Context(), k)
	if err != nil {
		b.t.Fatal(err)
	}
	return e
}

// answers are the answers to requests to cancel among the events.
func answers(events []event.Event) (all []string) {
	for _, e := range events {
		switch m := e.Message.(type) {
		case *documentv1.Cancelled:
			all = append(all, "cancelled "+m.RequestId)
		case *documentv1.CancelRefused:
			all = append(all, "refused "+m.RequestId+": "+m.Reason.Code+" "+m.Reason.RemoteCode)
		}
	}
	return all
}

func (b *fixture) answered() []string {
	b.t.Helper()
	events, err := b.tick()
	if err != nil {
		b.t.Fatal(err)
	}
	return answers(events)
}

// A wish whose answer only the document's state gives is answered when that is seen.
func TestAWishIsAnswered(t *testing.T) {
	key := purchaseTerms.Key("acme", "P-1")
	tests := []struct {
		name  string
		knobs memory.Knobs
		// then happens after the request.
		then  func(*memory.Warehouse) error
		want  []string
		state ledger.State
	}{
		{name: "cancelled", knobs: memory.Knobs{CancelPending: 1}, want: []string{"cancelled R-1"}, state: ledger.Cancelled},
		{name: "refused", knobs: memory.Knobs{CancelPending: 1, PendingRefused: true}, want: []string{fmt.Sprint("refused R-1: cancel.refused ", int(documentv1.Status_STATUS_CANCEL_REFUSED))}, state: ledger.Accepted},
		{name: "too late", knobs: memory.Knobs{CancelPending: 1}, then: func(wh *memory.Warehouse) error {
			if err := wh.Receive("P-1", "1", purchasev1.Grade_GRADE_GOOD, 5); err != nil {
				return err
			}
			wh.Complete("P-1")
			return nil
		}, want: []string{"refused R-1: cancel.late "}, state: ledger.Accepted},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			each(t, func(t *testing.T, b *fixture) {
				b.bothKinds()
				b.buy("P-1")
				b.expect("before the wish", b.answered(), []string(nil))
				b.wish(key, "R-1")
				b.wh.Set(func(k *memory.Knobs) { *k = test.knobs })
				b.cancel(key)
				b.wait(35 * time.Second)
				b.expect("while the warehouse decides", b.answered(), []string(nil))
				if test.then != nil {
					if err := test.then(b.wh); err != nil {
						t.Fatal(err)
					}
				}
				b.wh.Step()
				b.wait(35 * time.Second)
				parts := b.Parts
				parts.Ledger = lossy{b.all}
				lost, _ := b.tickOf(New(parts)) // and then the process dies
				b.wait(holdFor)
				b.expect("published and not written", answers(lost), test.want)
				again, err := b.tick()
				if err != nil {
					t.Fatal(err)
				}
				b.expect("answered", answers(again), test.want)
				for i := range again {
					if again[i].ID != lost[i].ID {
						t.Errorf("published again as %s, was %s", again[i].ID, lost[i].ID)
					}
				}
				e := b.entry(key)
				b.expect("state", e.State, test.state)
				if e.Cancel != nil {
					t.Errorf("the wish is open: %+v", e.Cancel)
				}
				b.wait(35 * time.Second)
				b.expect("after that", b.answered(), []string(nil))
			})
		})
	}
}

// A refusal from before the wish is no answer to it.
func TestAnEarlierRefusalIsNoAnswer(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.bothKinds()
		key := purchaseTerms.Key("acme", "P-1")
		b.buy("P-1")
		b.wh.Set(func(k *memory.Knobs) { k.CancelRefused = 1 })
		b.cancel(key)
		b.wait(time.Second)
		b.wish(key, "R-2")
		b.expect("answered", b.answered(), []string(nil))
		if e := b.entry(key); e.Cancel == nil {
			t.Error("the wish is no longer open")
		}
	})
}

// An order that the warehouse cancelled answers the wish to cancel it.
func TestACancelledOrderAnswersItsWish(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.wh.Knobs = memory.Knobs{Cancel: []string{"O-1", "O-2"}}
		b.accept("W01", "O-1", "O-2")
		b.wish(order.Kind.Key("acme", "O-1"), "R-1")
		var got []string
		for range 5 {
			got = append(got, b.answered()...)
			b.wh.Step()
			b.wait(11 * time.Minute)
		}
		slices.Sort(got)
		b.expect("answered", got, []string{"cancelled ", "cancelled R-1"})
		for _, no := range []string{"O-1", "O-2"} {
			e := b.entry(order.Kind.Key("acme", no))
			if e.State != ledger.Cancelled || e.Cancel != nil || !e.Following.Due.IsZero() {
				t.Errorf("%s: %s, wish %+v, following %+v", no, e.State, e.Cancel, e.Following)
			}
		}
	})
}

// halting is a ledger in front of a worker that dies before it writes how far a document is.
type halting struct {
	Ledger
	dead bool
}

func (l *halting) Follow(ctx context.Context, e ledger.Entry, state ledger.State, f ledger.Following) error {
	if l.dead {
		return errors.New("dead")
	}
	return l.Ledger.Follow(ctx, e, state, f)
}

// A worker that dies between ending the wish and writing the rest has answered once, and nothing is left open.
func TestAnAnswerIsGivenOnceAcrossACrash(t *testing.T) {
	for _, refused := range []bool{false, true} {
		t.Run(fmt.Sprint("refused ", refused), func(t *testing.T) {
			each(t, func(t *testing.T, b *fixture) {
				b.bothKinds()
				key := purchaseTerms.Key("acme", "P-1")
				b.buy("P-1")
				b.reported()
				b.wish(key, "R-1")
				b.wh.Set(func(k *memory.Knobs) { k.CancelPending, k.PendingRefused = 1, refused })
				b.cancel(key)
				b.wh.Step()
				b.wait(35 * time.Second)
				l := &halting{Ledger: b.Ledger, dead: true}
				b.Ledger = l
				events, err := b.tick()
				if err == nil || len(answers(events)) != 1 {
					t.Fatalf("answered %v, %v: it did not die", answers(events), err)
				}
				l.dead = false
				for range 2 {
					b.wait(time.Minute) // the dead worker's lease ends
					b.expect("answered after that", b.answered(), []string(nil))
				}
				e := b.entry(key)
				if e.Cancel != nil || (e.State == ledger.Cancelled) == refused {
					t.Errorf("%s, wish %+v", e.State, e.Cancel)
				}
			})
		})
	}
}
