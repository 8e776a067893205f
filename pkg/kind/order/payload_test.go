package order

import (
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/timestamppb"

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

// Whether two messages under one number are the same
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

// An earlier build made this hash of this
func TestTheHashOfEarlierBuildsIsKnown(t *testing.T) {
	const theirs = "f0cc5ed4d7c303510693bc8041e6ac71e1ee06b6c065aa0b7285707b4d554e58"
	if got := LegacyHash(written()); got != theirs {
		t.Errorf("the hash of builds before is %s now", got)
	}
	if !SamePayload(ledger.Entry{Hash: theirs}, written()) {
		t.Error("not the same as it was")
	}
}

// Entries keep these hashes for as long as the ledger keeps an order: each stays what it is.
func TestTheHashStaysWhatItIs(t *testing.T) {
	for range 2 { // the second in a buffer that was used before
		o := written()
		if got := PayloadHash(o); got != "2:69acc9332fb3956a4e526aae6f3dd93a68d65c1f06cf241d585d3f8e46f04138" {
			t.Errorf("the hash of an order is %s now", got)
		}
		o.Lines[0], o.Lines[1] = o.Lines[1], o.Lines[0]
		o.Collect, o.Lines[0].Price = "0012.3400", "007.00"
		if got := PayloadHash(o); got != "2:b5ab4aa35dcd3372f3e5a3f19ed3a21c6f667a9ab87b71e618dc7ad3301a9e30" {
			t.Errorf("the hash of an order with other money is %s now", got)
		}
	}
}

func BenchmarkPayloadHash(b *testing.B) {
	o := written()
	for name, hash := range map[string]func(*orderv1.Audited) string{"now": PayloadHash, "before": LegacyHash} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				hash(o)
			}
		})
	}
}
