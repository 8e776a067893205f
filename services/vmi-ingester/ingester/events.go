package ingester

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/event"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/stock"
	"stockbridge/pkg/warehouse"
	stockv1 "stockbridge/proto/stock/v1"
	vmiv1 "stockbridge/proto/vmi/v1"
)

// ruleDocuments is for movements of shops that are booked from their documents.
const ruleDocuments = "documents"

// ruleElsewhere counts rows of another warehouse: that warehouse's own place publishes them, if it is followed.
const ruleElsewhere = "elsewhere"

// rules say in words why a row is not to be booked.
var rules = map[string]struct{ zh, en string }{
	string(warehouse.RuleSet):       {"仓库方直接设置了库存，不是出入库", "the stock was set to a figure: nothing came or left"},
	string(warehouse.RuleRatio):     {"库存比例调整，不是出入库", "the shop's part of the stock was changed: nothing came or left"},
	string(warehouse.RuleNegative):  {"变动前或变动后库存为负，仓库方要求不记账", "stock below zero before or after: the warehouse asks not to book it"},
	string(warehouse.RuleUnchanged): {"变动前后库存相同", "the stock after is the stock before"},
	ruleDocuments:                   {"云仓店铺按单据记账，流水仅用于核对", "the shop is booked from its documents: the flow is only checked"},
}

// shortHash returns a part of an id for a text that may be long.
func shortHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:6])
}

func unixText(s int64) string { return time.Unix(s, 0).UTC().Format("20060102T150405Z") }

// windowKey returns what distinguishes a window: what is read, and why.
func windowKey(m *vmiv1.WindowDue) []string {
	key := []string{unixText(m.GetFrom().GetSeconds()), unixText(m.GetTo().GetSeconds()), strings.ToLower(strings.TrimPrefix(m.GetWhy().String(), "WHY_"))}
	if m.GetPage() > 1 {
		key = append(key, "p"+strconv.Itoa(int(m.GetPage())))
	}
	if m.GetGoodsNo() != "" {
		key = append(key, m.GetGoodsNo())
	}
	return key
}

// Window returns the event that asks for a window to be read. Windows of one interval, page, goods and reason have
// one id, unless wish distinguishes them.
func Window(m *vmiv1.WindowDue, at time.Time, wish ...string) event.Event {
	return event.VMIWindowDue.About(m.GetSeller(), placeOf(m).Token(), at, m, append(windowKey(m), wish...)...)
}

// movement returns a row as it is published.
func movement(place stock.Place, at seller.Place, row warehouse.FlowRow, linked bool) *stockv1.Movement {
	m := &stockv1.Movement{
		Seller: place.Seller, Warehouse: place.Warehouse, ShopNo: place.ShopNo, Shops: at.Shops, GoodsNo: row.GoodsNo, GoodsCode: row.GoodsCode,
		FlowNo: row.No, Reason: row.Reason, DocumentNo: row.DocumentNo, At: timestamppb.New(row.At), Change: row.Change,
	}
	if linked {
		before, after := row.Former, row.Now
		m.Before, m.After = &before, &after
	}
	return m
}

// rowOf returns a published movement as the book applies it.
func rowOf(m *stockv1.Movement) stock.Row {
	return stock.Row{
		Movement: stock.Movement{
			No: m.GetFlowNo(), At: m.GetAt().GetSeconds(), Before: m.GetBefore(), After: m.GetAfter(), Change: m.GetChange(),
			Linked: m.Before != nil && m.After != nil,
		},
		GoodsNo: m.GetGoodsNo(), GoodsCode: m.GetGoodsCode(),
	}
}

// movementEvent returns the event of a movement, and the rule by which it is not to be booked, "" when it is.
func movementEvent(m *stockv1.Movement, row warehouse.Rule, documents bool, now time.Time) (event.Event, string) {
	place := stock.Place{Seller: m.Seller, Warehouse: m.Warehouse, ShopNo: m.ShopNo}
	rule := ruleOf(m.Change, row, documents)
	if rule == "" {
		a := &stockv1.Adjusted{Movement: m, Direction: stockv1.Adjusted_DIRECTION_IN, Quantity: m.Change}
		if m.Change < 0 {
			a.Direction, a.Quantity = stockv1.Adjusted_DIRECTION_OUT, -m.Change
		}
		return event.StockAdjusted.About(m.Seller, m.FlowNo, now, a, place.Token()), ""
	}
	why := rules[rule]
	n := &stockv1.Noted{Movement: m, Rule: rule, Zh: why.zh, En: why.en}
	return event.StockNoted.About(m.Seller, m.FlowNo, now, n, place.Token()), rule
}

// gapName is the name under which the book marks a gap as published.
func gapName(goods string, h stock.Gap) string {
	n := func(v int64) string { return strconv.FormatInt(v, 10) }
	return "gap/" + shortHash(strings.Join([]string{goods, n(h.Left.Value), n(h.Left.At), n(h.Right.Value), n(h.Right.At)}, "/"))
}

// gapEvents returns the events that report a gap and request what lies in it.
func gapEvents(place stock.Place, goods string, h stock.Gap, now time.Time) []event.Event {
	span := h.Interval()
	found := &vmiv1.GapFound{
		Seller: place.Seller, Warehouse: place.Warehouse, ShopNo: place.ShopNo, GoodsNo: goods, At: timestamppb.New(now),
		LeftAt: h.Left.Value, FoundAt: h.Right.Value, From: unixStamp(span.From), To: unixStamp(span.To),
	}
	due := &vmiv1.WindowDue{
		Seller: place.Seller, Warehouse: place.Warehouse, ShopNo: place.ShopNo, GoodsNo: goods,
		From: unixStamp(span.From), To: unixStamp(span.To), Why: vmiv1.Why_WHY_GAP,
	}
	name := gapName(goods, h)
	return []event.Event{event.VMIGapFound.About(place.Seller, place.Token(), now, found, name), Window(due, now, name)}
}
