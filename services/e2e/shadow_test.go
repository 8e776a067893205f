package e2e

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/quota"
	orderv1 "stockbridge/proto/order/v1"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/bridgectl/ctl"
	"stockbridge/services/bridgectl/stack"
	"stockbridge/services/e2e/orderview"
	"stockbridge/services/e2e/testenv"
	"stockbridge/services/order-pusher/pusher"
)

// timer sends an order as the ERP's own program does: what we would send, with the given differences.
func timer(t *testing.T, w *testenv.World, o *orderv1.Audited, otherwise map[string]string) {
	t.Helper()
	s, _ := w.Sellers.Get(o.Seller)
	wh, err := w.Warehouses.Read(s, o.Warehouse, quota.Status)
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]string{}
	if err := json.Unmarshal([]byte(wh.Plan(o).Body), &fields); err != nil {
		t.Fatal(err)
	}
	maps.Copy(fields, otherwise)
	param, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.JD.Take(string(param)); err != nil {
		t.Fatal(err)
	}
}

// writes counts those of our calls that may change something at JD.
func writes(w *testenv.World) int64 {
	calls := w.JD.Counters().Calls
	return calls[addOrder] + calls["eclp.order.cancelOrder"]
}

// Sixty orders beside the ERP's own timer, with planted differences: exactly these are named, we write nothing at JD,
// and after the switch-over only new orders are sent, whatever is replayed or published again.
func TestShadowBesideTheERPsOwnTimer(t *testing.T) {
	options := testenv.Options{
		Pusher: func(c *pusher.Config) { c.ShadowLookAfter, c.ShadowGiveUp = time.Second, 3*time.Second },
		Setup:  func(s *sellerv1.Setup) { s.Shadow = &sellerv1.Shadow{} },
	}
	options.Sandbox = func(c *jdsandbox.Config) {
		c.Shippers = append(c.Shippers, jdsandbox.Shipper{ShipperNo: "CYS0000099", ShipperName: "圆通", Status: "1"})
	}
	each(t, options, func(t *testing.T, w *testenv.World) {
		list := w.Maker.Make(60)
		carrier, missing, quantity, address, refused, held := list[3], list[11], list[20], list[33], list[44], list[52]
		address.Receiver.Address += "🏠"
		refused.Receiver.Name = strings.Repeat("长", 21) // longer than JD accepts, and never cut
		held.Shop = "S99"                               // not in the set-up
		w.Publish(list...)
		for _, o := range list {
			otherwise := map[string]string{}
			switch o {
			case missing:
				continue
			case carrier:
				otherwise["shipperNo"] = "CYS0000099"
			case quantity:
				var counts []string
				for i, l := range o.Lines {
					counts = append(counts, strconv.FormatInt(l.Quantity+int64(7*(1-min(i, 1))), 10))
				}
				otherwise["quantity"] = strings.Join(counts, ",")
			case address:
				otherwise["consigneeAddress"] = o.Receiver.Province + " " + o.Receiver.City + " " + o.Receiver.County + " " + o.Receiver.Address
			case refused:
				otherwise["consigneeName"] = strings.Repeat("长", 20)
			case held:
				otherwise["shopNo"] = "ESP0020000000001"
			}
			timer(t, w, o, otherwise)
		}
		seen := map[string]string{}
		w.Until("each order has a verdict", func() bool {
			clear(seen)
			query := bus.EventQuery{Names: []string{event.OrderShadowed.Name}, Seller: stack.DemoSeller}
			if err := w.Bus.Events(t.Context(), query, func(e bus.Stored) error {
				m, err := bus.Decode(event.OrderShadowed, e)
				if err != nil {
					return err
				}
				text := strings.TrimPrefix(m.Verdict.String(), "VERDICT_")
				for _, r := range m.Reasons {
					text += " " + r.Code
				}
				for _, d := range m.Differences {
					text += " " + d.Field
				}
				if strings.Contains(string(e.Body), list[0].Receiver.Mobile) || m.RequestDigest == "" {
					t.Errorf("personal data, or no digest: %s", e.Body)
				}
				seen[m.Ref.OutboundNo] = text
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			return len(seen) == len(list)
		})
		want := map[*orderv1.Audited]string{
			carrier: "DIFFERS carrier", missing: "ONLY_OURS", address: "DIFFERS receiver.address",
			refused: "WOULD_FAIL text.long receiver.name", held: "WOULD_HOLD shop.unknown shop",
		}
		for _, o := range list {
			expected, special := want[o]
			if !special {
				expected = "SAME"
			}
			if o == quantity {
				expected = "DIFFERS lines.quantity"
			}
			if seen[o.OutboundNo] != expected {
				t.Errorf("%s: published %q, want %q", o.OutboundNo, seen[o.OutboundNo], expected)
			}
		}
		if n := writes(w); n != 0 {
			t.Fatalf("%d calls that write", n)
		}
		if all := w.Published(stack.DemoSeller); all.Events[event.OrderFailed.Name]+all.Events[event.OrderHeld.Name]+all.Events[event.OrderAccepted.Name] != 0 {
			t.Errorf("outcomes were published for orders that its own program sends: %v", all.Events)
		}

		// The report names exactly these.
		report, code := bridgectl(t, w, "seller", "shadow", stack.DemoSeller, "-o", "json", "--limit", "100")
		var doc struct {
			Orders, Waiting int
			Verdicts        map[string]int
			Safe            bool
			Listed          []struct {
				OutboundNo string `json:"outbound_no"`
			}
		}
		if err := json.Unmarshal(report, &doc); err != nil {
			t.Fatal(err)
		}
		named := make([]string, 0, len(doc.Listed))
		for _, o := range doc.Listed {
			named = append(named, o.OutboundNo)
		}
		slices.Sort(named)
		planted := []string{carrier.OutboundNo, missing.OutboundNo, quantity.OutboundNo, address.OutboundNo, refused.OutboundNo, held.OutboundNo}
		if !slices.Equal(named, planted) || doc.Orders != 60 || doc.Verdicts["same"] != 54 || doc.Safe || code != 1 {
			t.Errorf("ends %d: %s", code, report)
		}

		// The switch-over.
		until := time.Now().Truncate(time.Second).Add(time.Second)
		setup := w.Setup()
		setup.Shadow = &sellerv1.Shadow{Until: until.Format(time.RFC3339)}
		w.Apply(setup)
		w.Until("the switch-over", func() bool { return time.Now().After(until) })
		for _, o := range w.Maker.Make(10) {
			w.Publish(o)
			w.Accepted(o)
		}
		if n := writes(w); n != 10 {
			t.Errorf("%d calls that write, want 10", n)
		}

		// Published again as they were, and as new ones.
		w.Publish(list[0], missing)
		known, gone := proto.CloneOf(list[1]), proto.CloneOf(missing)
		known.AuditedAt, gone.AuditedAt = timestamppb.Now(), timestamppb.Now()
		w.Publish(known, gone)
		w.UntilPublished("what JD has is adopted", known, accepted)
		w.UntilPublished("what JD does not have waits", gone, func(o *orderview.Order) bool {
			return slices.Contains(o.Held, "shadow:"+stack.DemoSeller+"/"+missing.OutboundNo)
		})
		w.Until("both copies of it are held", func() bool { return len(w.DeadLetters(event.Held)) >= 2 })
		for _, m := range w.DeadLetters(event.Held) {
			if err := w.Bus.Replay(t.Context(), m.Seq, bus.By{Who: "story", Why: "by mistake"}); err != nil {
				t.Fatal(err)
			}
		}
		last := w.Maker.Next()
		w.Publish(last)
		w.Accepted(last)
		w.Until("the replayed ones wait again", func() bool { return len(w.DeadLetters(event.Held)) >= 2 })
		if n := writes(w); n != 11 || len(w.Documents(missing)) != 0 {
			t.Errorf("%d calls that write, want 11; JD has %d documents of the missing one", n, len(w.Documents(missing)))
		}
		for _, o := range list {
			if n := len(w.Documents(o)); o != missing && n != 1 {
				t.Errorf("%s: %d documents", o.OutboundNo, n)
			}
		}

		// Until a person says so.
		if _, code := bridgectl(t, w, "held", "release", "--cause", "shadow:"+stack.DemoSeller); code != 0 {
			t.Fatal("not released")
		}
		w.Accepted(gone)
		if n := writes(w); n != 12 {
			t.Errorf("%d calls that write, want 12", n)
		}
	})
}

// bridgectl runs a command against the world and returns what it printed and its exit code.
func bridgectl(t *testing.T, w *testenv.World, args ...string) ([]byte, int) {
	t.Helper()
	var out, errs strings.Builder
	common := []string{"bridgectl", "--nats-url", w.NATSURL, "--log", t.TempDir() + "/acts.log"}
	if w.RedisURL != "" {
		common = append(common, "--redis-url", w.RedisURL)
	}
	all := append(common, args...)
	code := ctl.Run(t.Context(), all, ctl.Streams{In: strings.NewReader(""), Out: &out, Err: &errs})
	if errs.Len() > 0 {
		t.Log(errs.String())
	}
	return []byte(out.String()), code
}
