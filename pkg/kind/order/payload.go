package order

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/clean"
	"stockbridge/pkg/kind"
	"stockbridge/pkg/ledger"
	orderv1 "stockbridge/proto/order/v1"
)

// PayloadHash identifies an order's content under its outbound number. It covers what reaches the warehouse, not how the
// ERP wrote it: it is taken after cleaning, money counts by its value, times by the second, lines in any order.
//
// It leaves out what does not reach the warehouse: when the order was audited and paid, its revision, what it supersedes,
// its hold, names and categories of goods, platform numbers after the first, and unknown fields. The set-up is not in it;
// see the package comment.
func PayloadHash(o *orderv1.Audited) string { return Hash(clean.Order(o).Order) }

// SamePayload reports whether the entry's hash is that of o, also when an earlier build wrote it. Entries that are
// reconstructed, or belong to another program, have no hash of their own and never match.
func SamePayload(entry ledger.Entry, o *orderv1.Audited) bool {
	if strings.HasPrefix(entry.Hash, kind.ContentMark) {
		return entry.Hash == PayloadHash(o)
	}
	return entry.Hash != "" && entry.Hash == LegacyHash(o)
}

// Hash is PayloadHash of a cleaned order.
func Hash(o *orderv1.Audited) string {
	c := kind.NewContent()
	c.Texts(o.Seller, o.Shop, o.Warehouse, o.OrderNo, o.OutboundNo, o.Platform, o.Carrier, o.BuyerRemark, o.SellerRemark)
	first := ""
	if len(o.PlatformOrderNos) > 0 {
		first = o.PlatformOrderNos[0]
	}
	c.Texts(first)
	c.Time(o.OrderedAt)
	c.Time(o.ExpectedAt)
	c.Texts(nonZeroAmount(o.Collect), nonZeroAmount(o.GetMarks().GetInsuredValue()))
	c.Flag(o.GetMarks().GetUrgent())

	r := o.GetReceiver()
	c.Texts(r.GetName(), r.GetMobile(), r.GetPhone(), r.GetEmail(), r.GetProvince(), r.GetCity(), r.GetCounty(), r.GetTown(),
		r.GetAddress(), r.GetPostcode())
	c.Flag(o.Invoice != nil) // an empty one asks for an invoice too
	c.Number(int64(o.GetInvoice().GetKind()))
	c.Texts(o.GetInvoice().GetTitle(), o.GetInvoice().GetContent(), o.GetInvoice().GetTaxNo())

	byID := func(a, b *orderv1.Line) int { return strings.Compare(a.LineId, b.LineId) }
	lines := o.Lines
	if !slices.IsSortedFunc(lines, byID) {
		lines = slices.Clone(lines)
		slices.SortStableFunc(lines, byID)
	}
	for _, l := range lines {
		b := l.GetBatch()
		c.Number(l.Quantity)
		c.Texts(l.LineId, l.GoodsCode, l.WarehouseGoodsNo, amount(l.Price), b.GetBatchNo(), b.GetProductionDate(), b.GetExpiryDate())
	}
	return c.Sum()
}

// amount is money by its value: "0128.50" and "128.5000" are "128.5". A text that is no amount stays as it is.
func amount(text string) string {
	whole, fraction, _ := strings.Cut(text, ".")
	trimmed := strings.TrimLeft(whole, "0")
	if fraction = strings.TrimRight(fraction, "0"); fraction != "" {
		from := len(whole) - len(trimmed)
		return text[from : len(whole)+1+len(fraction)]
	}
	if trimmed == "" && text != "" {
		return "0"
	}
	return trimmed
}

// nonZeroAmount is amount, but "" for zero.
func nonZeroAmount(text string) string {
	if a := amount(text); a != "0" {
		return a
	}
	return ""
}

// LegacyHash is the hash of earlier builds, over the message as the ERP wrote it. Their entries live as long as the ledger
// keeps an order.
func LegacyHash(o *orderv1.Audited) string {
	c := proto.CloneOf(o)
	c.AuditedAt, c.Revision, c.Supersedes, c.Hold = nil, 0, "", nil
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
	if err != nil {
		panic(fmt.Sprintf("marshal a decoded message: %v", err)) // only invalid UTF-8, which decoding refuses
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}
