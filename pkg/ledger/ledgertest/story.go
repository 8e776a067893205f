package ledgertest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"stockbridge/pkg/ledger"
)

// warehouse accepts everything it is sent: twice when it is sent twice.
type fakeWarehouse struct {
	documents map[string]int // by outbound number
	cancelled map[string]bool
}

// Story is the suite's random story with the store's own failures. trouble is called before each call of the ledger;
// a worker that meets an error then ends, as if it had died.
func Story(t *testing.T, s Store, trouble func(*rapid.T)) {
	b := newBench(t, s)
	b.story(trouble, true)
}

func testStory(b *bench) { b.story(func(*rapid.T) {}, false) }

// story lets workers push a few orders that share lines, over the ledger's protocol. They die at any point, answers
// are lost, deliveries repeat, claims expire, the ledger forgets everything. Nothing may be at the warehouse twice;
// while the ledger forgets nothing, no line may be live under two numbers.
func (b *bench) story(trouble func(*rapid.T), troubled bool) {
	round := 0
	orders := map[string][]string{"A": {"1", "2"}, "B": {"2", "3"}, "C": {"3"}}
	numbers := []string{"A", "B", "C"}
	rapid.Check(b.T, func(t *rapid.T) {
		round++
		far := fakeWarehouse{map[string]int{}, map[string]bool{}}
		w := worker{b, t, &far, func() { trouble(t) }, troubled}
		key := func(no string) ledger.Key { return ledger.Key{Seller: fmt.Sprintf("s%d", round), Kind: kind, No: no} }
		forgets := rapid.Bool().Draw(t, "the ledger forgets")
		forgot := false
		published := map[string]time.Time{}
		for _, err := w.startEpoch(key("first-ever")); err != nil; _, err = w.startEpoch(key("first-ever")) {
			w.did(err)
			w.trouble()
		}
		b.clock.Add(ledger.EpochMargin + time.Second)

		for range rapid.IntRange(5, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				b.clock.Add(time.Duration(rapid.IntRange(1, 60).Draw(t, "s")) * time.Second)
			case 1:
				if forgets {
					forgot = true
					b.store.Wipe()
				}
			case 2:
				w.follow(key(rapid.SampledFrom(numbers).Draw(t, "cancel")))
			default:
				no := rapid.SampledFrom(numbers).Draw(t, "deliver")
				_, before := published[no]
				if !before {
					published[no] = b.now()
				}
				request := b.order(no, orders[no]...)
				request.Key = key(no)
				request.StreamTime, request.AuditedAt, request.First = published[no], published[no], !before
				w.push(request)
			}

			live := map[string]string{}
			for no, n := range far.documents {
				if n > 1 {
					t.Fatalf("%s is %d times at the warehouse", no, n)
				}
				if far.cancelled[no] || forgot {
					continue
				}
				for _, line := range orders[no] {
					if other := live[line]; other != "" {
						t.Fatalf("line %s is live under %s and %s", line, no, other)
					}
					live[line] = no
				}
			}
		}
		b.clock.Add(time.Hour)
	})
}

// worker runs the protocol, and may die between any two steps.
type worker struct {
	*bench
	t        *rapid.T
	far      *fakeWarehouse
	trouble  func()
	troubled bool
}

// startEpoch makes the ledger know the seller.
func (w worker) startEpoch(k ledger.Key) (ledger.Claimed, error) {
	return w.Claim(w.ctx, ledger.ClaimRequest{Key: k, Owner: "w0", Hash: "h"})
}

func (w worker) dies() bool { return rapid.IntRange(0, 7).Draw(w.t, "dies") == 0 }

// did is false when the ledger's failure ends the worker.
func (w worker) did(err error) bool {
	if err != nil && !w.troubled {
		w.t.Fatal(err)
	}
	return err == nil
}

func (w worker) follow(k ledger.Key) {
	w.trouble()
	e, err := w.Get(w.ctx, k)
	if err != nil || e.State != ledger.Accepted {
		return
	}
	w.far.cancelled[k.No] = true
	w.trouble()
	w.did(w.Follow(w.ctx, e, ledger.Cancelled, ledger.Following{}))
}

func (w worker) push(request ledger.ClaimRequest) {
	w.trouble()
	claimed, err := w.Claim(w.ctx, request)
	var taken *ledger.ItemTaken
	if errors.Is(err, ledger.ErrBusy) || errors.As(err, &taken) || !w.did(err) {
		return
	}
	if claimed.Claim.Owner == "" || w.dies() {
		return
	}
	w.trouble()
	if !claimed.NeverSent {
		no := request.Key.No
		switch {
		case w.far.documents[no] > 0 && w.far.cancelled[no]:
			w.did(w.Refuse(w.ctx, claimed.Claim, refusal()))
			return
		case w.far.documents[no] > 0:
			w.did(w.accept(request))
			return
		case claimed.Entry.State == ledger.Unknown && claimed.Entry.Lookups < 2:
			_, _, err := w.MarkNotFound(w.ctx, claimed.Claim)
			w.did(err)
			return
		case claimed.Entry.State == ledger.Unknown:
			if !w.did(w.Resend(w.ctx, claimed.Claim)) {
				return
			}
		}
		if w.dies() {
			return
		}
		w.trouble()
	}
	w.send(request, claimed.Claim)
}

func (w worker) send(request ledger.ClaimRequest, c ledger.Claim) {
	switch rapid.IntRange(0, 5).Draw(w.t, "the call") {
	case 0: // not sent
		w.did(w.Release(w.ctx, c, "dial"))
	case 1: // refused
		w.did(w.Refuse(w.ctx, c, refusal()))
	case 2: // lost before it was done
		w.did(w.MarkUnknown(w.ctx, c, "no answer"))
	case 3: // lost after it was done
		w.far.documents[request.Key.No]++
		if !w.dies() {
			w.did(w.MarkUnknown(w.ctx, c, "no answer"))
		}
	default:
		w.far.documents[request.Key.No]++
		if !w.dies() {
			w.did(w.accept(request))
		}
	}
}

func (w worker) accept(request ledger.ClaimRequest) error {
	return w.Accept(w.ctx, request, "N"+request.Key.No, nil, w.now())
}
