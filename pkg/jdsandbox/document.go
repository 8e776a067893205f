package jdsandbox

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Statuses with a meaning for the sandbox (docs/jd-api.md, Order status). They are never compared as numbers: 100130
// comes before 10014.
const (
	statusWaybill      Code = "100130"
	statusPacked       Code = "10018"
	statusHandedOver   Code = "10019"
	statusOut          Code = "10020"
	statusPulledBack   Code = "10031"
	statusSorted       Code = "10032"
	statusBackSorted   Code = "10036"
	statusSentOn       Code = "10054"
	statusCancelled    Code = "10028"
	statusCancelFailed Code = "10029"
	statusAtStation    Code = "10033"
	statusDelivered    Code = "10034"
	statusRejected     Code = "10035"
	statusGoingBack    Code = "10037"
	statusBack         Code = "10038"
)

// statusNames are JD's published texts.
var statusNames = map[Code]string{
	"10010": "订单初始化", "10014": "已下发库房", "10015": "任务已分配", "10016": "拣货下架", "10017": "复核",
	statusPacked: "货品已打包", statusHandedOver: "交接发货", statusCancelled: "取消成功", statusCancelFailed: "取消失败",
	statusAtStation: "站点验收", statusDelivered: "妥投", statusRejected: "拒收",
	statusGoingBack: "逆向发货", statusBack: "逆向完成", statusWaybill: "预分拣-获取运单", statusOut: "包裹出库", statusSorted: "分拣验收",
	statusSentOn: "分拣中心发货", statusPulledBack: "订单拉回", statusBackSorted: "逆向验收", "10027": "取消中", "10050": "采购完成", "10051": "采购异常",
}

// packedStatuses are those at which packages and real quantities are known. The waybill exists from statusWaybill on.
var packedStatuses = []Code{
	statusPacked, statusHandedOver, statusOut, statusSorted, statusSentOn, statusAtStation, statusDelivered, statusRejected,
	statusPulledBack, statusBackSorted, statusGoingBack, statusBack,
}

// Status is an entry of a document's history.
type Status struct {
	Code Code   `json:"code"`
	Name string `json:"name,omitempty"`
	// At is by the warehouse's clock.
	At   time.Time `json:"at"`
	User string    `json:"user,omitempty"`
}

// Line is a line of a document.
type Line struct {
	GoodsNo    string `json:"goodsNo,omitempty"`
	IsvGoodsNo string `json:"isvGoodsNo,omitempty"`
	OrderLine  string `json:"orderLine,omitempty"`
	Price      string `json:"price,omitempty"`
	Quantity   int64  `json:"quantity"`
	// RealOutQty is what left; nil before packing and on the parent of a split.
	RealOutQty *int64 `json:"realOutQty,omitempty"`
}

// Package is a package.
type Package struct {
	PackageNo string `json:"packageNo"`
	WayBill   string `json:"wayBill"`
	// PackWeight is in kilograms, two places.
	PackWeight string `json:"packWeight"`
	Goods      []Good `json:"goods,omitempty"`
}

// Good is some goods in a package.
type Good struct {
	GoodsNo  string `json:"goodsNo"`
	GoodsNum int64  `json:"goodsNum"`
}

// Document is a delivery order at JD at one moment.
type Document struct {
	// Seq is the sequence of arrival, from 1.
	Seq                  int64  `json:"seq"`
	EclpSoNo             string `json:"eclpSoNo"`
	IsvUUID              string `json:"isvUUID"`
	DepartmentNo         string `json:"departmentNo"`
	ShopNo               string `json:"shopNo,omitempty"`
	WarehouseNo          string `json:"warehouseNo,omitempty"`
	ShipperNo            string `json:"shipperNo,omitempty"`
	SalesPlatformOrderNo string `json:"salesPlatformOrderNo,omitempty"`
	// Parent is set on the children of a split, Children on the parent.
	Parent   string   `json:"parent,omitempty"`
	Children []string `json:"children,omitempty"`
	// Created is by the host's clock.
	Created  time.Time `json:"created"`
	Status   Code      `json:"status"`
	History  []Status  `json:"history"`
	WayBills []string  `json:"wayBills,omitempty"`
	Packages []Package `json:"packages,omitempty"`
	Lines    []Line    `json:"lines"`
	// Own: JD created the order itself, in a shop of its own.
	Own bool `json:"own,omitempty"`
	// Params is the addOrder as it was sent.
	Params map[string]string `json:"params,omitempty"`
}

// document is what the state keeps of a document. It contains the whole future; the present state is computed from the
// warehouse's clock. It is written to the journal as it is.
type document struct {
	Seq     int64             `json:"seq"`
	No      string            `json:"no"`
	Number  string            `json:"number"` // isvUUID
	Dept    string            `json:"dept"`
	Params  map[string]string `json:"params,omitempty"` // empty on children, which share their parent's
	Created time.Time         `json:"created"`
	// Born is when it begins to exist in the warehouse's time; for a child the moment of the split.
	Born     time.Time `json:"born"`
	Parent   string    `json:"parent,omitempty"`
	Children []string  `json:"children,omitempty"`
	// Void is a child whose parent was cancelled before the split.
	Void bool `json:"void,omitempty"`
	// Deciding is until when a cancellation is undecided.
	Deciding time.Time `json:"deciding,omitzero"`
	// Plan is sorted by time; entries up to now are the history.
	Plan     []Status  `json:"plan"`
	Lines    []Line    `json:"lines"`
	Packages []Package `json:"packages,omitempty"`
	Own      bool      `json:"own,omitempty"`
	// ShipAt is the status at which goods leave the stock.
	ShipAt Code `json:"shipAt,omitempty"`
	// Booked: its goods were moved by an act.
	Booked bool `json:"booked,omitempty"`

	held  []holding
	stage stage
}

func (d *document) history(now time.Time) []Status {
	n := 0
	for n < len(d.Plan) && !d.Plan[n].At.After(now) {
		n++
	}
	return d.Plan[:n:n]
}

func (d *document) exists(now time.Time) bool { return !d.Void && !d.Born.After(now) }

func has(history []Status, codes ...Code) bool {
	return slices.ContainsFunc(history, func(s Status) bool { return slices.Contains(codes, s.Code) })
}

func last(history []Status) Code {
	if len(history) == 0 {
		return ""
	}
	return history[len(history)-1].Code
}

// order is an addOrder that passed the checks.
type order struct {
	number, dept string
	params       map[string]string
	lines        []Line
}

// plan decides everything that will happen to an order without interference: the document and, if it will be split, its
// children. rnd is the order's own; seq is the number of the first.
func (k *Knobs) plan(o order, rnd *rand.Rand, seq int64, created, now time.Time) []*document {
	root := &document{
		Seq: seq, No: soNumber(seq), Number: o.number, Dept: o.dept, Params: o.params,
		Created: created, Born: now, Plan: k.walk(rnd, now, ""), Lines: o.lines,
	}
	parts := [][]Line{o.lines}
	if k.Split.picks(rnd, o.number) {
		parts = divide(o.lines, k.Split.Parts)
	}
	leaves := []*document{root}
	if len(parts) > 1 {
		at := max(0, slices.IndexFunc(root.Plan, func(s Status) bool { return s.Code == k.Split.At }))
		root.Plan = root.Plan[:at+1]
		leaves = leaves[:0]
		for i, lines := range parts {
			child := &document{
				Seq: seq + int64(i) + 1, No: soNumber(seq + int64(i) + 1), Number: o.number, Dept: o.dept,
				Created: created, Born: root.Plan[at].At, Parent: root.No,
				Plan: k.walk(rnd, root.Plan[at].At, root.Plan[at].Code), Lines: lines,
			}
			root.Children = append(root.Children, child.No)
			leaves = append(leaves, child)
		}
	}
	ownCancel, short, rejected := k.OwnCancel.picks(rnd, o.number), k.Short.picks(rnd, o.number), k.Rejected.picks(rnd, o.number)
	for i, d := range leaves {
		d.Lines = slices.Clone(d.Lines)
		if short {
			short = !shorten(d.Lines, rnd)
		} else {
			shorten(d.Lines, nil)
		}
		if rejected {
			reject(d)
		}
		if ownCancel && i == len(leaves)-1 {
			cancelAfter(d, k.OwnCancel.At)
		}
		d.Packages = k.pack(d, rnd)
	}
	if len(parts) > 1 {
		return append([]*document{root}, leaves...)
	}
	return leaves
}

func soNumber(seq int64) string { return fmt.Sprintf("ESL44%011d", seq) }

// picks draws in any case, so that naming an order does not change the random choices about others.
func (l Lot) picks(rnd *rand.Rand, number string) bool {
	return rnd.Float64() < l.Chance || slices.Contains(l.Orders, number)
}

// walk schedules the steps from the one named (or the first), which is reached at start.
func (k *Knobs) walk(rnd *rand.Rand, start time.Time, from Code) []Status {
	steps := k.Walk[max(0, slices.IndexFunc(k.Walk, func(s Step) bool { return s.Code == from })):]
	var plan []Status
	for i, s := range steps {
		takes, stays := float64(s.After)*(1+k.Jitter*(2*rnd.Float64()-1)), s.Chance == 0 || rnd.Float64() < s.Chance
		switch {
		case i == 0:
			plan = append(plan, Status{Code: s.Code, At: start})
		case stays:
			start = start.Add(time.Duration(takes))
			plan = append(plan, Status{Code: s.Code, At: start})
		}
	}
	return plan
}

// divide distributes the lines to at most n parts, and pieces of lines if there are too few lines.
func divide(lines []Line, n int) [][]Line {
	parts := make([][]Line, n)
	for i, l := range lines {
		if len(lines) >= n {
			parts[i%n] = append(parts[i%n], l)
			continue
		}
		for p := range parts {
			piece := l
			if piece.Quantity = l.Quantity / int64(n); int64((p+n-i%n)%n) < l.Quantity%int64(n) {
				piece.Quantity++
			}
			if piece.Quantity > 0 {
				parts[p] = append(parts[p], piece)
			}
		}
	}
	return slices.DeleteFunc(parts, func(p []Line) bool { return len(p) == 0 })
}

// shorten decides what will leave: everything, or with rnd less of one line. It reports whether something is missing.
func shorten(lines []Line, rnd *rand.Rand) bool {
	total := int64(0)
	for i := range lines {
		q := lines[i].Quantity
		lines[i].RealOutQty, total = &q, total+q
	}
	if rnd == nil || total < 2 {
		return false
	}
	l := lines[rnd.IntN(len(lines))]
	missing := 1 + rnd.Int64N(min(l.Quantity, total-1))
	*l.RealOutQty -= missing
	return true
}

// reject lets the buyer refuse the parcel; the return takes one and three days.
func reject(d *document) {
	i := slices.IndexFunc(d.Plan, func(s Status) bool { return s.Code == statusDelivered })
	if i < 0 {
		return
	}
	at := d.Plan[i].At
	d.Plan = append(d.Plan[:i:i], Status{Code: statusRejected, At: at},
		Status{Code: statusGoingBack, At: at.Add(24 * time.Hour)}, Status{Code: statusBack, At: at.Add(72 * time.Hour)})
}

// cancelAfter ends the plan halfway between the status and the next, at the latest before packing.
func cancelAfter(d *document, code Code) {
	i := slices.IndexFunc(d.Plan, func(s Status) bool { return s.Code == code })
	packed := slices.IndexFunc(d.Plan, func(s Status) bool { return slices.Contains(packedStatuses, s.Code) })
	if packed > 0 && (i < 0 || i >= packed) {
		i = packed - 1
	}
	i = max(0, i)
	at := d.Plan[i].At.Add(time.Second)
	if i+1 < len(d.Plan) {
		at = d.Plan[i].At.Add(d.Plan[i+1].At.Sub(d.Plan[i].At) / 2)
	}
	d.Plan = append(d.Plan[:i+1:i+1], Status{Code: statusCancelled, At: at})
}

// pack puts what leaves into packages, each with its own waybill, piece by piece in turn. A piece weighs a third of a
// kilogram, a box a fifth.
func (k *Knobs) pack(d *document, rnd *rand.Rand) []Package {
	total := int64(0)
	for _, l := range d.Lines {
		total += *l.RealOutQty
	}
	n := int64(1 + rnd.IntN(k.Packages))
	n = max(1, min(n, total))
	packages, grams := make([]Package, n), make([]int64, n)
	first := int64(0) // the package that gets the first piece of the line
	for _, l := range d.Lines {
		for p := range n {
			pieces := *l.RealOutQty / n
			if (p-first+n)%n < *l.RealOutQty%n {
				pieces++
			}
			if pieces > 0 {
				packages[p].Goods = append(packages[p].Goods, Good{GoodsNo: l.GoodsNo, GoodsNum: pieces})
				grams[p] += pieces * 330
			}
		}
		first = (first + *l.RealOutQty) % n
	}
	for p := range packages {
		packages[p].WayBill = fmt.Sprintf("JDVA%09d%02d", d.Seq, p+1)
		packages[p].PackageNo = packages[p].WayBill + "-1-1-"
		weight := grams[p] + 200
		packages[p].PackWeight = fmt.Sprintf("%d.%02d", weight/1000, weight%1000/10)
	}
	return packages
}
