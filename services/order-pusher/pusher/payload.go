package pusher

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/clean"
	"stockbridge/pkg/ledger"
	orderv1 "stockbridge/proto/order/v1"
)

// payloadMark begins hashes of PayloadHash. Those of builds before are 64 hexadecimal digits and nothing else.
const payloadMark = "2:"

// PayloadHash tells two contents under one outbound number apart: it is over what reaches the warehouse and not over how
// that is written.
//
// So it is taken after cleaning; money counts by its value, times by the second, lines in whatever order. It leaves out
// what does not reach the warehouse: when the order was audited and paid, which revision that was, what it supersedes,
// whether it was to be held, names and categories of goods, platform numbers behind the first, and fields that we do not
// know. The set-up is not in it; see the package's comment.
func PayloadHash(o *orderv1.Audited) string { return payloadHash(clean.Order(o).Order) }

// SamePayload tells whether the ledger's hash is that of o, also when a build before this one wrote it. What is known of
// in part, or belongs to another program, has no hash of its own and is never the same.
func SamePayload(entry ledger.Entry, o *orderv1.Audited) bool {
	if strings.HasPrefix(entry.Hash, payloadMark) {
		return entry.Hash == PayloadHash(o)
	}
	return entry.Hash != "" && entry.Hash == earlierHash(o)
}

// payloadHash is PayloadHash of an order that was cleaned.
func payloadHash(o *orderv1.Audited) string {
	var room [1024]byte
	c := content(room[:0])
	c.texts(o.Seller, o.Shop, o.Warehouse, o.OrderNo, o.OutboundNo, o.Platform, o.Carrier, o.BuyerRemark, o.SellerRemark)
	first := ""
	if len(o.PlatformOrderNos) > 0 {
		first = o.PlatformOrderNos[0]
	}
	c.texts(first)
	c.time(o.OrderedAt)
	c.time(o.ExpectedAt)
	c.texts(some(o.Collect), some(o.GetMarks().GetInsuredValue()))
	c.flag(o.GetMarks().GetUrgent())

	r := o.GetReceiver()
	c.texts(r.GetName(), r.GetMobile(), r.GetPhone(), r.GetEmail(), r.GetProvince(), r.GetCity(), r.GetCounty(), r.GetTown(),
		r.GetAddress(), r.GetPostcode())
	c.flag(o.Invoice != nil) // one without a word in it asks for an invoice too
	c.number(int64(o.GetInvoice().GetKind()))
	c.texts(o.GetInvoice().GetTitle(), o.GetInvoice().GetContent(), o.GetInvoice().GetTaxNo())

	byID := func(a, b *orderv1.Line) int { return strings.Compare(a.LineId, b.LineId) }
	lines := o.Lines
	if !slices.IsSortedFunc(lines, byID) {
		lines = slices.Clone(lines)
		slices.SortStableFunc(lines, byID)
	}
	for _, l := range lines {
		b := l.GetBatch()
		c.number(l.Quantity)
		c.texts(l.LineId, l.GoodsCode, l.WarehouseGoodsNo, amount(l.Price), b.GetBatchNo(), b.GetProductionDate(), b.GetExpiryDate())
	}
	sum := sha256.Sum256(c)
	var text [len(payloadMark) + 2*sha256.Size]byte
	copy(text[:], payloadMark)
	hex.Encode(text[len(payloadMark):], sum[:])
	return string(text[:])
}

// content is what is hashed: each text behind its length, so that no two contents look alike.
type content []byte

func (c *content) texts(list ...string) {
	for _, s := range list {
		*c = binary.AppendUvarint(*c, uint64(len(s)))
		*c = append(*c, s...)
	}
}

func (c *content) number(n int64) { *c = binary.AppendVarint(*c, n) }

func (c *content) flag(is bool) {
	if is {
		*c = append(*c, 1)
	} else {
		*c = append(*c, 0)
	}
}

func (c *content) time(at *timestamppb.Timestamp) {
	c.flag(at != nil)
	if at != nil {
		c.number(at.Seconds)
	}
}

// amount is money by its value: "0128.50" and "128.5000" are "128.5". Of a text that is no amount it is the text.
func amount(text string) string {
	whole, fraction, _ := strings.Cut(text, ".")
	trimmed := strings.TrimLeft(whole, "0")
	if fraction = strings.TrimRight(fraction, "0"); fraction != "" {
		return trimmed + "." + fraction
	}
	if trimmed == "" && text != "" {
		return "0"
	}
	return trimmed
}

// some is an amount of which nothing is as good as none.
func some(text string) string {
	if a := amount(text); a != "0" {
		return a
	}
	return ""
}

// earlierHash is the hash of builds before: over the message as it was written. Entries of theirs live as long as the
// ledger keeps what it knows of an order.
func earlierHash(o *orderv1.Audited) string {
	c := proto.CloneOf(o)
	c.AuditedAt, c.Revision, c.Supersedes, c.Hold = nil, 0, "", nil
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
	if err != nil {
		panic(fmt.Sprintf("marshal a decoded message: %v", err)) // only invalid UTF-8, which decoding refuses
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}
