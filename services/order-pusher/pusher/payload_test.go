package pusher

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	orderv1 "stockbridge/proto/order/v1"
)

func written() *orderv1.Audited {
	at := timestamppb.New(time.Date(2026, 3, 1, 4, 5, 6, 0, time.UTC))
	return &orderv1.Audited{
		Seller: "acme", Shop: "S01", Warehouse: "W01", OrderNo: "SO-1", OutboundNo: "SO-1-1", Revision: 1, AuditedAt: at, OrderedAt: at,
		Platform: "tmall", PlatformOrderNos: []string{"T-1"}, BuyerRemark: "快点",
		Lines: []*orderv1.Line{
			{LineId: "1", GoodsCode: "TEA", Name: "茶", Quantity: 2, Price: "128.0"},
			{LineId: "2", GoodsCode: "CUP", Quantity: 3, Price: "5"},
		},
		Receiver: &orderv1.Receiver{Name: "李四", Mobile: "13800000000", Province: "浙江省", City: "杭州市", County: "西湖区", Address: "文三路 90 号"},
	}
}

// Whether two messages under one number are the same order.
func TestTheSameOrderWrittenDifferently(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*orderv1.Audited)
		same   bool
	}{
		{"money with more zeros", func(o *orderv1.Audited) { o.Lines[0].Price, o.Lines[1].Price = "128.00", "5.0000" }, true},
		{"nothing to collect, and said", func(o *orderv1.Audited) { o.Collect, o.Marks = "0.00", &orderv1.Marks{InsuredValue: "0"} }, true},
		{"lines in another order", func(o *orderv1.Audited) { o.Lines[0], o.Lines[1] = o.Lines[1], o.Lines[0] }, true},
		{"invisible marks", func(o *orderv1.Audited) {
			o.Receiver.Name, o.Receiver.Mobile = "李\u200b四", "\u202d13800000000\u202c\n"
		}, true},
		{"a picture in a remark", func(o *orderv1.Audited) { o.BuyerRemark = " 快点😀" }, true},
		{"a word for a second number", func(o *orderv1.Audited) { o.Receiver.Phone = "无" }, true},
		{"the area again", func(o *orderv1.Audited) { o.Receiver.Address = "浙江省杭州市西湖区文三路 90 号" }, true},
		{"empty parts", func(o *orderv1.Audited) { o.Marks, o.Lines[0].Batch = &orderv1.Marks{}, &orderv1.Batch{} }, true},
		{"a part of a second", func(o *orderv1.Audited) { o.OrderedAt.Nanos = 999 }, true},
		{"audited and paid again", func(o *orderv1.Audited) {
			o.Revision, o.AuditedAt, o.PaidAt = 2, timestamppb.Now(), timestamppb.Now()
		}, true},
		{"another name of the goods", func(o *orderv1.Audited) { o.Lines[0].Name, o.Lines[0].Category = "红茶", "C1" }, true},
		{"a field that we do not know", func(o *orderv1.Audited) {
			o.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 900, protowire.VarintType), 1))
		}, true},

		{"another quantity", func(o *orderv1.Audited) { o.Lines[0].Quantity++ }, false},
		{"quantities swapped", func(o *orderv1.Audited) { o.Lines[0].Quantity, o.Lines[1].Quantity = 3, 2 }, false},
		{"another price", func(o *orderv1.Audited) { o.Lines[0].Price = "128.01" }, false},
		{"no price", func(o *orderv1.Audited) { o.Lines[0].Price = "" }, false},
		{"something to collect", func(o *orderv1.Audited) { o.Collect = "0.01" }, false},
		{"a line less", func(o *orderv1.Audited) { o.Lines = o.Lines[:1] }, false},
		{"another phone", func(o *orderv1.Audited) { o.Receiver.Mobile = "13900000000" }, false},
		{"another house", func(o *orderv1.Audited) { o.Receiver.Address = "文三路 9 0 号" }, false},
		{"a text in the next field", func(o *orderv1.Audited) { o.BuyerRemark, o.SellerRemark = "", "快点" }, false},
		{"an invoice", func(o *orderv1.Audited) { o.Invoice = &orderv1.Invoice{} }, false},
		{"in a hurry", func(o *orderv1.Audited) { o.Marks = &orderv1.Marks{Urgent: true} }, false},
		{"a batch", func(o *orderv1.Audited) { o.Lines[0].Batch = &orderv1.Batch{BatchNo: "B"} }, false},
		{"another platform order", func(o *orderv1.Audited) { o.PlatformOrderNos[0] = "T-2" }, false},
		{"another ERP order", func(o *orderv1.Audited) { o.OrderNo = "SO-2" }, false},
		{"another carrier", func(o *orderv1.Audited) { o.Carrier = "sf" }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := written()
			c.change(o)
			if same := SamePayload(ledger.Entry{Hash: PayloadHash(written())}, o); same != c.same {
				t.Errorf("the same: %v", same)
			}
		})
	}
	if SamePayload(ledger.Entry{}, written()) || SamePayload(ledger.Entry{Origin: ledger.External}, written()) {
		t.Error("an entry without a hash is any order's")
	}
}

// An earlier build made this hash of this order.
func TestTheHashOfEarlierBuildsIsKnown(t *testing.T) {
	const theirs = "f0cc5ed4d7c303510693bc8041e6ac71e1ee06b6c065aa0b7285707b4d554e58"
	if got := legacyHash(written()); got != theirs {
		t.Errorf("the hash of builds before is %s now", got)
	}
	if !SamePayload(ledger.Entry{Hash: theirs}, written()) {
		t.Error("not the same as it was")
	}
}

func TestAnOrderInFlightOverTheUpgradeIsNotRefused(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		// Claimed by the earlier build, its answer lost.
		o := b.order("A-1")
		begun, err := b.ledger.Claim(t.Context(), claimRequest(&bus.Delivery{StreamTime: b.now()}, o, legacyHash(o), "theirs"))
		if err != nil {
			t.Fatal(err)
		}
		if err := b.ledger.MarkUnknown(t.Context(), begun.Claim, "lost"); err != nil {
			t.Fatal(err)
		}
		if _, err := b.wh.SendOrder(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		b.accepts(o, again)
		b.accepts(o, fresh) // published again
		b.has(o, 1)

		changed := proto.CloneOf(o)
		changed.Lines[0].Quantity++
		b.wants(changed, fresh, "held operator:acme/A-1")
	})
}

func TestAHarmlessRepublishReportsAcceptedAgain(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		o := b.order("A-1")
		o.Lines[0].Price = "128.0"
		b.accepts(o, fresh)
		o = proto.CloneOf(o)
		o.Lines[0].Price, o.Receiver.Name, o.BuyerRemark = "128.00", "王\u200b芳 ", " "
		b.accepts(o, fresh)
		b.has(o, 1)
	})
}

// Whatever is wrong with a message under the number of a live order, no order.failed is published.
func TestALiveOrderIsNeverReportedAsFailed(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		o := b.order("A-1")
		b.accepts(o, fresh)
		number := b.number(o)
		refused := func(name string, reported []event.Event, code string) {
			t.Helper()
			if len(reported) != 1 {
				t.Fatalf("%s: reported %d", name, len(reported))
			}
			m, ok := reported[0].Message.(*orderv1.Held)
			if !ok || m.Reason.Code != code || m.Ref.WarehouseNo != number || !strings.Contains(m.Reason.En, number) || !strings.Contains(m.Reason.Zh, number) {
				t.Errorf("%s: reported %v", name, reported[0].Message)
			}
			if !strings.HasSuffix(reported[0].ID, "/"+code) {
				t.Errorf("%s: id %s", name, reported[0].ID)
			}
		}
		d := &bus.Delivery{StreamTime: b.now(), Attempt: 1, Seller: "acme"}
		changed := proto.CloneOf(o)
		changed.Lines[0].Quantity = 9
		reported, err := b.Push(t.Context(), d, changed)
		if fault.Of(err) != fault.Refused {
			t.Error(err)
		}
		refused("another content", reported, "outbound.reused")

		changed.Receiver.Name = "🌸" // another content, and wrong in itself
		reported, _ = b.Push(t.Context(), d, changed)
		refused("another content that is wrong", reported, "text.required")

		partly := &orderv1.Audited{Seller: "acme", OutboundNo: "A-1"} // the rest could not be read
		refused("unreadable", b.OnReject(d, partly, fault.Permanent(fault.Reason{Code: "malformed", ZH: "无法读取", EN: "cannot be read"})), "malformed")

		partly.OutboundNo = "A-2"
		reported = b.OnReject(d, partly, fault.Permanent(fault.Reason{Code: "malformed", ZH: "无法读取", EN: "cannot be read"}))
		if _, ok := reported[0].Message.(*orderv1.Failed); !ok {
			t.Errorf("reported %v", reported[0].Message)
		}
	})
}

// A message that one seller publishes in another's name is refused to its publisher.
func TestARefusalGoesToThePublisher(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		o := b.order("A-1")
		reported := b.OnReject(&bus.Delivery{Seller: "evil"}, o, fault.Permanent(fault.Reason{Code: "seller.mismatch", ZH: "不一致", EN: "differs"}))
		if len(reported) != 1 || reported[0].Seller != "evil" || reported[0].Message.(*orderv1.Failed).Ref.Seller != "evil" {
			t.Errorf("reported %v", reported)
		}
	})
}

func BenchmarkPayloadHash(b *testing.B) {
	o := written()
	for name, hash := range map[string]func(*orderv1.Audited) string{"now": PayloadHash, "before": legacyHash} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				hash(o)
			}
		})
	}
}
