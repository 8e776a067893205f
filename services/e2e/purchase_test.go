package e2e_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/ledger"
	documentv1 "stockbridge/proto/document/v1"
	purchasev1 "stockbridge/proto/purchase/v1"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/bridgectl/stack"
	"stockbridge/services/e2e/testenv"
)

// purchases is a world whose seller has a supplier and whose ledger is older than what is audited.
type purchases struct {
	*testenv.World
	t *testing.T
}

func startPurchases(t *testing.T, o testenv.Options) *purchases {
	t.Helper()
	o.Setup = func(s *sellerv1.Setup) {
		s.Suppliers = []*sellerv1.Mapping{{Code: "TEA-FARM", Number: "EMS4398046512427"}}
	}
	p := &purchases{testenv.Start(t, o), t}
	begun := time.Now() // the workers began the ledger's epoch
	p.Until("the ledger is older than what comes now", func() bool { return time.Since(begun) > ledger.EpochMargin+time.Second })
	return p
}

func (p *purchases) audit(no string, quantity int64) {
	p.publish(event.PurchaseAudited.Name, &purchasev1.Audited{
		Seller: stack.DemoSeller, Warehouse: "W01", No: no, Revision: 1, AuditedAt: timestamppb.Now(), Supplier: "TEA-FARM",
		Lines: []*purchasev1.Line{
			{LineId: "1", GoodsCode: "TEA-250", Quantity: quantity},
			{LineId: "2", GoodsCode: "CUP", Quantity: 3, Grade: purchasev1.Grade_GRADE_GOOD},
		},
	})
}

func (p *purchases) cancel(no, request string) {
	p.publish(event.PurchaseCancelRequested.Name, &documentv1.CancelRequested{
		Seller: stack.DemoSeller, No: no, RequestId: request, Cause: documentv1.CancelRequested_CAUSE_CHANGE, RequestedAt: timestamppb.Now(),
	})
}

func (p *purchases) publish(name string, m proto.Message) {
	p.t.Helper()
	body, err := protojson.Marshal(m)
	if err != nil {
		p.t.Fatal(err)
	}
	p.PublishRaw(name+"."+stack.DemoSeller, body)
}

// published is what was published of the purchase order, each fact once, in short.
func (p *purchases) published(no string) (said []string) {
	p.t.Helper()
	seen := map[string]bool{}
	err := p.Bus.Events(p.t.Context(), bus.EventQuery{Stream: "PURCHASES", Seller: stack.DemoSeller, Key: no}, func(s bus.Stored) error {
		if seen[s.ID] {
			return nil
		}
		seen[s.ID] = true
		fact, ok := event.FactNamed(s.Name)
		if !ok {
			return fmt.Errorf("no such event: %s", s.Name)
		}
		m := fact.New()
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(s.Body, m); err != nil {
			return err
		}
		text := strings.TrimPrefix(s.Name, "purchase.")
		switch m := m.(type) {
		case *documentv1.Held:
			text += " " + m.Cause
		case *documentv1.Failed:
			text += " " + m.Reason.Code
		case *documentv1.StatusChanged:
			text += " " + m.Code
		case *documentv1.Cancelled:
			text += " " + m.RequestId
		case *documentv1.CancelRefused:
			text += " " + m.RequestId
		case *purchasev1.Received:
			for _, l := range m.Lines {
				text += fmt.Sprintf(" %s:%s%+d", l.LineId, strings.ToLower(strings.TrimPrefix(l.Grade.String(), "GRADE_")), l.Received)
			}
			if m.Complete {
				text += " complete"
			}
		}
		said = append(said, text)
		return nil
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return said
}

// untilPublished waits for a fact of the purchase order, in short.
func (p *purchases) untilPublished(no, fact string) []string {
	p.t.Helper()
	var said []string
	p.Until(no+": "+fact, func() bool {
		said = p.published(no)
		return slices.ContainsFunc(said, func(s string) bool { return strings.HasPrefix(s, fact) })
	})
	return said
}

// only is the purchase order's one document at JD.
func (p *purchases) only(no string) jdsandbox.Purchase {
	p.t.Helper()
	docs := p.JD.Purchases(no)
	if len(docs) != 1 {
		p.t.Fatalf("%s: JD has %d documents", no, len(docs))
	}
	return docs[0]
}

func eachPurchases(t *testing.T, o testenv.Options, test func(t *testing.T, p *purchases)) {
	for _, l := range testenv.Ledgers {
		t.Run(l, func(t *testing.T) {
			t.Parallel()
			o.Ledger = l
			test(t, startPurchases(t, o))
		})
	}
}

// What really arrives comes back receipt by receipt, by condition, and adds up to what JD has.
func TestAPurchaseOrderIsSentAndReceived(t *testing.T) {
	t.Parallel()
	eachPurchases(t, testenv.Options{}, func(t *testing.T, p *purchases) {
		p.audit("PO-1", 10)
		p.audit("PO-1", 10) // ERPs repeat
		said := p.untilPublished("PO-1", "accepted")
		doc := p.only("PO-1")
		if len(said) == 0 || said[0] != "accepted" || doc.SupplierNo != "EMS4398046512427" {
			t.Errorf("published %v, JD has %+v", said, doc)
		}
		receive := func(r jdsandbox.PurchaseReceipt) {
			t.Helper()
			if err := p.JD.ReceivePurchase(doc.PoOrderNo, r); err != nil {
				t.Fatal(err)
			}
		}
		receive(jdsandbox.PurchaseReceipt{Goods: []jdsandbox.PurchaseGoods{{Line: 1, Num: 4}}})
		p.untilPublished("PO-1", "received 1:good+4")
		receive(jdsandbox.PurchaseReceipt{Goods: []jdsandbox.PurchaseGoods{{Line: 1, Num: 3}, {Line: 1, Num: 1, GoodsLevel: "200"}, {Line: 2, Num: 3}}, Finish: true})
		said = p.untilPublished("PO-1", "received 1:good+3 1:defective+1 2:good+3 complete")
		for _, s := range said {
			if strings.HasPrefix(s, "failed") || strings.HasPrefix(s, "held") {
				t.Errorf("published %v", said)
			}
		}
		p.Until("it is followed no longer", func() bool {
			n, err := p.Ledger.CountFollowed(t.Context(), "purchase", stack.DemoSeller)
			return err == nil && n[0].N == 0
		})
		p.only("PO-1")
		p.NoViolations()
	})
}

// JD cannot be asked for a purchase order by the ERP's number, so one whose answer was lost is for a person.
func TestAPurchaseOrderWhoseAnswerWasLostWaitsForAPerson(t *testing.T) {
	t.Parallel()
	eachPurchases(t, testenv.Options{}, func(t *testing.T, p *purchases) {
		if _, err := p.JD.AddFault(jdsandbox.Fault{Kind: jdsandbox.LoseAnswer, Methods: []string{"eclp.po.addPoOrder"}, Orders: []string{"PO-1"}, Count: 1}); err != nil {
			t.Fatal(err)
		}
		p.audit("PO-1", 10)
		p.audit("PO-2", 10)
		p.untilPublished("PO-1", "held unresolved:"+stack.DemoSeller+"/purchase/PO-1")
		p.untilPublished("PO-2", "accepted") // nobody else waits
		p.audit("PO-1", 10)
		p.Until("the repeated audit is handled", func() bool { return len(p.DeadLetters(event.Held)) == 2 })
		p.only("PO-1")
		for _, m := range p.DeadLetters(event.Held) {
			if m.Key != "PO-1" || m.Cause != "unresolved:"+stack.DemoSeller+"/purchase/PO-1" {
				t.Errorf("held: %+v", m)
			}
		}
		p.NoViolations()
	})
}

func TestAPurchaseOrderIsCancelled(t *testing.T) {
	t.Parallel()
	eachPurchases(t, testenv.Options{}, func(t *testing.T, p *purchases) {
		// At once; under way and then done; under way and then refused; when goods are in; before it was audited.
		p.audit("PO-1", 10)
		p.untilPublished("PO-1", "accepted")
		p.cancel("PO-1", "stop-1")
		p.untilPublished("PO-1", "cancelled stop-1")
		if doc := p.only("PO-1"); doc.Status != "91" {
			t.Errorf("JD has it at %s", doc.Status)
		}
		p.cancel("PO-4", "stop-4")
		p.Until("the wish is noted", func() bool {
			e, err := p.Ledger.Get(t.Context(), ledger.Key{Seller: stack.DemoSeller, Kind: "purchase", No: "PO-4"})
			return err == nil && e.Cancel != nil
		})
		p.audit("PO-4", 10)
		p.untilPublished("PO-4", "cancelled stop-4")
		if docs := p.JD.Purchases("PO-4"); len(docs) != 0 {
			t.Errorf("JD has %+v", docs)
		}
		p.audit("PO-3", 10)
		p.untilPublished("PO-3", "accepted")
		if err := p.JD.ReceivePurchase(p.only("PO-3").PoOrderNo, jdsandbox.PurchaseReceipt{Goods: []jdsandbox.PurchaseGoods{{Line: 1, Num: 10}}, Finish: true}); err != nil {
			t.Fatal(err)
		}
		p.cancel("PO-3", "stop-3")
		said := p.untilPublished("PO-3", "cancel.refused stop-3")
		if slices.ContainsFunc(said, func(s string) bool { return strings.HasPrefix(s, "cancelled") }) {
			t.Errorf("published %v", said)
		}
		p.untilPublished("PO-3", "received")
		p.NoViolations()
	})
}

func TestAPurchaseOrdersSupplierIsMappedFirst(t *testing.T) {
	t.Parallel()
	eachPurchases(t, testenv.Options{}, func(t *testing.T, p *purchases) {
		setup := p.Setup()
		p.Apply(setup) // without suppliers
		p.audit("PO-1", 10)
		p.untilPublished("PO-1", "held supplier:"+stack.DemoSeller+"/TEA-FARM")
		setup.Suppliers = []*sellerv1.Mapping{{Code: "TEA-FARM", Number: "EMS4398046512427"}}
		p.Apply(setup)
		p.untilPublished("PO-1", "accepted")
		p.only("PO-1")
	})
}
