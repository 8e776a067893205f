package ledgertest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"stockbridge/pkg/ledger"
)

// farSide takes whatever it is sent: twice when it is sent twice.
type farSide struct {
	documents map[string]int // by outbound number
	cancelled map[string]bool
}

// Story is the suite's random story with trouble of the store's own. trouble is called before each call of the ledger;
// an error that is met then ends the worker, as if it had died.
func Story(t *testing.T, s Store, trouble func(*rapid.T)) {
	b := newBench(t, s)
	b.story(trouble, true)
}

func testStory(b *bench) { b.story(func(*rapid.T) {}, false) }

// story lets workers push a few orders that share lines, over the ledger's protocol. They die at any point, answers are
// lost, deliveries repeat, claims run out, the ledger forgets everything. Nothing may stand twice at the far side; while
// the ledger forgets nothing, no line may be live under two numbers.
func (b *bench) story(trouble func(*rapid.T), troubled bool) {
	round := 0
	orders := map[string][]string{"A": {"1", "2"}, "B": {"2", "3"}, "C": {"3"}}
	numbers := []string{"A", "B", "C"}
	rapid.Check(b.T, func(t *rapid.T) {
		round++
		far := farSide{map[string]int{}, map[string]bool{}}
		w := worker{b, t, &far, func() { trouble(t) }, troubled}
		key := func(no string) ledger.Key { return ledger.Key{Seller: fmt.Sprintf("s%d", round), Kind: kind, No: no} }
		forgets := rapid.Bool().Draw(t, "the ledger forgets")
		forgot := false
		published := map[string]time.Time{}
		for _, err := w.birth(key("first-ever")); err != nil; _, err = w.birth(key("first-ever")) {
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
				begin := b.order(no, orders[no]...)
				begin.Key = key(no)
				begin.StreamTime, begin.AuditedAt, begin.First = published[no], published[no], !before
				w.push(begin)
			}

			live := map[string]string{}
			for no, n := range far.documents {
				if n > 1 {
					t.Fatalf("%s stands %d times at the far side", no, n)
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

// worker is whoever runs the protocol, and may die between any two steps.
type worker struct {
	*bench
	t        *rapid.T
	far      *farSide
	trouble  func()
	troubled bool
}

// birth makes the ledger know the seller.
func (w worker) birth(k ledger.Key) (ledger.Claimed, error) {
	return w.Claim(w.ctx, ledger.ClaimRequest{Key: k, Owner: "w0", Hash: "h"})
}

func (w worker) dies() bool { return rapid.IntRange(0, 7).Draw(w.t, "dies") == 0 }

// did is false when the ledger's trouble ends the worker.
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

func (w worker) push(begin ledger.ClaimRequest) {
	w.trouble()
	begun, err := w.Claim(w.ctx, begin)
	var taken *ledger.LineTaken
	if errors.Is(err, ledger.ErrBusy) || errors.As(err, &taken) || !w.did(err) {
		return
	}
	if begun.Claim.Owner == "" || w.dies() {
		return
	}
	w.trouble()
	if !begun.NeverSent {
		no := begin.Key.No
		switch {
		case w.far.documents[no] > 0 && w.far.cancelled[no]:
			w.did(w.Refuse(w.ctx, begun.Claim, refusal()))
			return
		case w.far.documents[no] > 0:
			w.did(w.accept(begin))
			return
		case begun.Entry.State == ledger.Unknown && begun.Entry.Lookups < 2:
			_, _, err := w.MarkNotFound(w.ctx, begun.Claim)
			w.did(err)
			return
		case begun.Entry.State == ledger.Unknown:
			if !w.did(w.Resend(w.ctx, begun.Claim)) {
				return
			}
		}
		if w.dies() {
			return
		}
		w.trouble()
	}
	w.send(begin, begun.Claim)
}

func (w worker) send(begin ledger.ClaimRequest, c ledger.Claim) {
	switch rapid.IntRange(0, 5).Draw(w.t, "the call") {
	case 0: // not sent
		w.did(w.Release(w.ctx, c, "dial"))
	case 1: // refused
		w.did(w.Refuse(w.ctx, c, refusal()))
	case 2: // lost before it was done
		w.did(w.MarkUnknown(w.ctx, c, "no answer"))
	case 3: // lost after it was done
		w.far.documents[begin.Key.No]++
		if !w.dies() {
			w.did(w.MarkUnknown(w.ctx, c, "no answer"))
		}
	default:
		w.far.documents[begin.Key.No]++
		if !w.dies() {
			w.did(w.accept(begin))
		}
	}
}

func (w worker) accept(begin ledger.ClaimRequest) error {
	return w.Accept(w.ctx, begin, "N"+begin.Key.No, nil, w.now())
}
