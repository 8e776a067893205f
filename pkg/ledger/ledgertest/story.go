package ledgertest

import (
	"errors"
	"fmt"
	"time"

	"pgregory.net/rapid"

	"stockbridge/pkg/ledger"
)

// farSide takes whatever it is sent: twice when it is sent twice.
type farSide struct {
	documents map[string]int // by outbound number
	cancelled map[string]bool
}

// testStory lets workers push a few orders that share lines, over the ledger's protocol. They die at any point, answers
// are lost, deliveries repeat, claims run out, the ledger forgets everything. Nothing may stand twice at the far side;
// while the ledger forgets nothing, no line may be live under two numbers.
func testStory(b *bench) {
	round := 0
	rapid.Check(b.T, func(t *rapid.T) {
		round++
		seller := fmt.Sprintf("s%d", round)
		forgets := rapid.Bool().Draw(t, "the ledger forgets")
		far := farSide{map[string]int{}, map[string]bool{}}
		orders := map[string][]string{"A": {"1", "2"}, "B": {"2", "3"}, "C": {"3"}}
		published := map[string]time.Time{}
		forgot := false

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
				no := rapid.SampledFrom([]string{"A", "B", "C"}).Draw(t, "cancel")
				e, err := b.Get(b.ctx, ledger.Key{Seller: seller, Kind: kind, No: no})
				if err == nil && e.State == ledger.Accepted {
					far.cancelled[no] = true
					b.must(b.Follow(b.ctx, e, ledger.Cancelled, ledger.Following{}))
				}
			default:
				no := rapid.SampledFrom([]string{"A", "B", "C"}).Draw(t, "deliver")
				_, before := published[no]
				if !before {
					published[no] = b.now()
				}
				begin := b.order(no, orders[no]...)
				begin.Key.Seller = seller
				begin.StreamTime, begin.AuditedAt, begin.First = published[no], published[no], !before
				b.push(t, begin, &far)
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

// push is one run of a worker, which may die between any two steps.
func (b *bench) push(t *rapid.T, begin ledger.Begin, far *farSide) {
	dies := func() bool { return rapid.IntRange(0, 7).Draw(t, "dies") == 0 }
	begun, err := b.Begin(b.ctx, begin)
	var taken *ledger.LineTaken
	if errors.Is(err, ledger.ErrBusy) || errors.As(err, &taken) {
		return
	}
	b.must(err)
	no := begin.Key.No
	if begun.Claim.Owner == "" || dies() {
		return
	}
	number := "N" + no
	if begun.Entry.State == ledger.Refused || begun.Entry.State == ledger.Unknown || !begun.Fresh {
		switch {
		case far.documents[no] > 0 && far.cancelled[no]:
			b.must(b.Refuse(b.ctx, begun.Claim, refusal()))
			return
		case far.documents[no] > 0:
			b.must(b.Accept(b.ctx, begin, number, nil, b.now()))
			return
		case begun.Entry.State == ledger.Unknown && begun.Entry.Looks < 2:
			_, _, err := b.Absent(b.ctx, begun.Claim)
			b.must(err)
			return
		case begun.Entry.State == ledger.Unknown:
			b.must(b.Resend(b.ctx, begun.Claim))
		}
		if dies() {
			return
		}
	}
	switch rapid.IntRange(0, 5).Draw(t, "the call") {
	case 0: // not sent
		b.must(b.Release(b.ctx, begun.Claim, "dial"))
		return
	case 1: // refused
		b.must(b.Refuse(b.ctx, begun.Claim, refusal()))
		return
	case 2: // lost before it was done
		b.must(b.Doubt(b.ctx, begun.Claim, "no answer"))
		return
	case 3: // lost after it was done
		far.documents[no]++
		if dies() {
			return
		}
		b.must(b.Doubt(b.ctx, begun.Claim, "no answer"))
	default:
		far.documents[no]++
		if dies() {
			return
		}
		b.must(b.Accept(b.ctx, begin, number, nil, b.now()))
	}
}
