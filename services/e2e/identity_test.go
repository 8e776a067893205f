package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/bridgectl/stack"
	"stockbridge/services/e2e/testenv"
	"stockbridge/services/order-pusher/pusher"
)

// An operator names another department while the answers of ten orders are lost, all of which JD has. Looked up there
// they seem absent, and JD has no way to notice the second documents.
func TestASetUpThatChangesBetweenTwoTriesSendsNothingTwice(t *testing.T) {
	t.Parallel()
	patient := func(c *pusher.Config) { c.ResendAfter, c.BreakerAfter = time.Second, 1000 }
	moved := func(c *jdsandbox.Config) {
		c.Shops = append(c.Shops, jdsandbox.Shop{ShopNo: "ESP0020000000002", ShopName: "moved", DeptNo: "EBU0000000000002"})
	}
	each(t, testenv.Options{Pusher: patient, Sandbox: moved}, func(t *testing.T, w *testenv.World) {
		fault(t, w, jdsandbox.Fault{Kind: jdsandbox.LoseAnswer, Methods: []string{addOrder}, Count: 10})
		list := w.Maker.Make(10)
		w.Publish(list...)
		documents := func() (n int) {
			for _, o := range list {
				n += len(w.Documents(o))
			}
			return n
		}
		// From then on JD does not answer look-ups either, until the set-up has changed.
		deaf := ""
		w.Until("JD has all ten", func() bool {
			if documents() == len(list) && deaf == "" {
				deaf, _ = w.JD.AddFault(jdsandbox.Fault{Kind: jdsandbox.Drop, Methods: []string{"eclp.order.ext.queryOrder"}, Chance: 1})
			}
			return deaf != ""
		})
		moved := w.Setup()
		moved.Accounts[0].Department, moved.Shops[0].ShopNo = "EBU0000000000002", "ESP0020000000002"
		w.Apply(moved)
		w.JD.RemoveFault(deaf)
		// A number of its own, not sent before the change, is sent under the new department. It must be certain that a ledger
		// which was lost does not hide a send of it.
		begun := time.Now()
		w.Until("the ledger is older than what comes now", func() bool { return time.Since(begun) > ledger.EpochMargin+time.Second })
		newer := w.Maker.Next()
		w.Publish(newer)
		w.Accepted(newer)
		w.Until("all ten are held, each for its own cause", func() bool {
			n := 0
			for _, m := range w.DeadLetters(event.Held) {
				if m.Cause == seller.CauseIdentity(stack.DemoSeller, m.Key) && m.Reason.Code == "account.changed" {
					n++
				}
			}
			return n > 0 && n+w.Published(stack.DemoSeller).Count(accepted) == len(list)+1 // on a slow machine the look-up may have come earlier
		})
		if n := documents(); n != len(list) {
			t.Fatalf("JD has %d documents of %d orders", n, len(list))
		}

		w.Apply(w.Setup())
		for _, o := range list {
			w.Accepted(o)
		}
	})
}

// Two sellers of one account would find each other's documents: the second is refused, with both names. Where two
// applications share a department, a document found under one seller's number is compared, and no other seller adopts
// it.
func TestAnotherSellersDocumentIsAdoptedByNobody(t *testing.T) {
	t.Parallel()
	second := func(c *jdsandbox.Config) {
		c.Apps = []jdsandbox.App{
			{Key: jdsandbox.DefaultAppKey, Secret: jdsandbox.DefaultAppSecret, Tokens: []jdsandbox.Token{{Value: jdsandbox.DefaultToken}}},
			{Key: "twin-app", Secret: jdsandbox.DefaultAppSecret, Tokens: []jdsandbox.Token{{Value: "twin-token"}}},
		}
	}
	each(t, testenv.Options{Sandbox: second}, func(t *testing.T, w *testenv.World) {
		theirs := w.Maker.Next()
		w.Publish(theirs)
		number := w.Accepted(theirs)

		twin := w.Setup()
		twin.Name = "twin"
		var faults seller.Faults
		if err := w.Stack.Apply(t.Context(), twin); !errors.As(err, &faults) || faults[0].Code != "setup.twin" || !strings.Contains(err.Error(), "twin and "+stack.DemoSeller) {
			t.Fatalf("a second seller of the account: %v", err)
		}
		token := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(token, []byte("twin-token"), 0o600); err != nil {
			t.Fatal(err)
		}
		twin.Accounts[0].AppKey, twin.Accounts[0].AccessToken = "twin-app", &sellerv1.SecretRef{File: token}
		w.Apply(twin)

		same, other := w.Maker.Next(), proto.CloneOf(theirs)
		w.Publish(same)
		w.Accepted(same)
		other.Seller, other.Receiver.Address = "twin", "解放路 1 号"
		other.Lines[0].Quantity += 2
		w.Publish(other)
		seen := w.UntilPublished("it is left to a person", other, held)
		if seen.Held[0] != seller.CauseOperator("twin", other.OutboundNo) || len(seen.Accepted) != 0 {
			t.Errorf("published %+v", seen)
		}
		items := w.DeadLetters(event.Held)
		if len(items) != 1 || items[0].Reason.Code != "warehouse.foreign" || strings.Contains(items[0].Error+items[0].Reason.EN, "解放路") ||
			!strings.Contains(items[0].Reason.EN, "lines.quantity") || !strings.Contains(items[0].Reason.EN, "receiver.address") {
			t.Fatalf("%+v", items)
		}
		if docs := w.Documents(theirs); len(docs) != 1 {
			t.Errorf("JD has %d documents", len(docs))
		}

		// A person says that it is this order's document all the same.
		if err := w.Bus.Replay(t.Context(), items[0].Seq, bus.By{Who: "test", Release: true}); err != nil {
			t.Fatal(err)
		}
		seen = w.UntilPublished("it is accepted all the same", other, accepted)
		if !slices.Equal(seen.Accepted, []string{number}) {
			t.Errorf("published %+v", seen)
		}
	})
}
