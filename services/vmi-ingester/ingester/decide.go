package ingester

import (
	"errors"
	"slices"
	"time"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/stock"
	"stockbridge/pkg/warehouse"
	vmiv1 "stockbridge/proto/vmi/v1"
)

// This file decides, and only decides: which time is read next and in which windows, how a window is continued, where
// missing movements are searched, and what becomes of a row. It reads nothing and writes nothing. Times are seconds of
// Unix time unless they are time.Time.

const (
	// windowsAtOnce is the most windows of each kind that one tick publishes; to cover more time they become longer.
	windowsAtOnce = 200
	// A plan that is clocksDiffer seconds ahead of the present was made by a wrong clock, which was wrong by
	// clockWrong seconds at most.
	clocksDiffer = 60
	clockWrong   = 24 * 60 * 60
	// maxWidening is by how many seconds a gap window reaches beyond the gap at most.
	maxWidening = 30 * 60
	// keptMargin is how long before its mark expires a row counts as known because its time was read.
	keptMargin = 5 * 24 * time.Hour
	// switchRetryAfter is when a window is tried again that waits for the plan after a change of method.
	switchRetryAfter = 10 * time.Second
)

// nextPlan returns the plan after a tick that the bus dates at.
func nextPlan(plan stock.Plan, f seller.Following, at, now time.Time) stock.Plan {
	until := at.Add(-f.Lag).Unix()
	if plan.Until == 0 {
		plan.Start = until // read one second at once, so that the streams show since when the place is followed
		if !f.Since.IsZero() {
			plan.Start = f.Since.Unix()
		}
		plan.Until, plan.SecondUntil, plan.Flow = plan.Start-1, plan.Start-1, int32(f.Flow)
	}
	if plan.Flow != int32(f.Flow) {
		// No time is read by both methods: no overlap, and no second look at what the other one read.
		plan.Flow, plan.SwitchedAt, plan.SecondUntil = int32(f.Flow), max(plan.SwitchedAt, plan.Until+1), plan.Until
	}
	if latest := max(at.Unix(), now.Unix()); plan.Until > latest+clocksDiffer {
		// A clock was ahead: what was read of the future was empty.
		plan.Until = max(until-clockWrong, plan.Start-1)
		plan.SecondUntil = min(plan.SecondUntil, plan.Until)
	}
	plan.Until = max(plan.Until, until)
	if f.SecondLook > 0 {
		// Small steps would cost a call per tick; being late by a quarter of SecondLook does not matter.
		upTo := min(at.Add(-f.SecondLook).Unix(), plan.Until)
		if upTo-plan.SecondUntil >= max(int64(f.Every/time.Second), int64(f.SecondLook/time.Second)/4, 1) {
			plan.SecondUntil = upTo
		}
	}
	return plan
}

// windowsBetween cuts the time between two plans into windows: of catchUp when much is to be read, never longer than
// longest (0: any), the most that the warehouse answers at once. Each lacks only its place.
func windowsBetween(from, next stock.Plan, f seller.Following, catchUp, longest time.Duration) []*vmiv1.WindowDue {
	if from.Until == 0 { // the first plan
		from = stock.Plan{Start: next.Start, Until: next.Start - 1, SecondUntil: next.Start - 1}
	}
	overlap := int64(f.Overlap / time.Second)
	news := cut(stock.Interval{From: max(from.Until+1-overlap, from.Start, next.SwitchedAt), To: next.Until}, from.Until+1, catchUp, longest)
	why := vmiv1.Why_WHY_NEXT
	if len(news) > 1 {
		why = vmiv1.Why_WHY_CATCH_UP
	}
	var due []*vmiv1.WindowDue
	add := func(s stock.Interval, why vmiv1.Why) {
		due = append(due, &vmiv1.WindowDue{From: unixStamp(s.From), To: unixStamp(s.To), Why: why})
	}
	// Alternate between the newest and the oldest: neither waits for all of the others.
	for i, j := 0, len(news)-1; i <= j; i, j = i+1, j-1 {
		add(news[j], why)
		if i < j {
			add(news[i], why)
		}
	}
	again := max(from.SecondUntil+1, next.SwitchedAt)
	for _, s := range cut(stock.Interval{From: again, To: next.SecondUntil}, again, catchUp, longest) {
		add(s, vmiv1.Why_WHY_SECOND_LOOK)
	}
	return due
}

// cut cuts an interval; it returns nothing when s ends before first, the first second in it that is new.
func cut(s stock.Interval, first int64, catchUp, longest time.Duration) []stock.Interval {
	if s.To < first {
		return nil
	}
	all := s.To - s.From + 1
	length := max(int64(catchUp/time.Second), (all+windowsAtOnce-1)/windowsAtOnce)
	if most := int64(longest / time.Second); most > 0 {
		length = min(length, most)
	}
	var parts []stock.Interval
	for at := s.From; at <= s.To; at += length {
		parts = append(parts, stock.Interval{From: at, To: min(at+length-1, s.To)})
	}
	// Do not make a window of an overlap or a few seconds.
	if n := len(parts); n > 1 && parts[n-1].To-parts[n-1].From < length/4 && parts[n-1].To-parts[n-2].From < max(int64(longest/time.Second), length) {
		parts[n-2].To = parts[n-1].To
		parts = parts[:n-1]
	}
	return parts
}

// planWithout returns a plan that covers a window again, which was not read. What a person asked for was never planned.
func planWithout(plan stock.Plan, window stock.Interval, why vmiv1.Why) stock.Plan {
	back := max(window.From, plan.Start) - 1
	switch {
	case plan.Until == 0 || why == vmiv1.Why_WHY_REFETCH:
	case why == vmiv1.Why_WHY_SECOND_LOOK:
		plan.SecondUntil = min(plan.SecondUntil, back)
	default:
		plan.Until, plan.SecondUntil = min(plan.Until, back), min(plan.SecondUntil, back)
	}
	return plan
}

// checkSwitch refuses a window from the second from on that was planned for another of the warehouse's methods than
// flow: row numbers do not show which of its rows that method published already.
func checkSwitch(plan stock.Plan, flow int32, from int64) error {
	if plan.Until != 0 && plan.Flow != flow {
		return fault.RetryAfter(switchRetryAfter, errors.New("stock.flow was changed: the next plan says from when on the other method is read"))
	}
	if from >= plan.SwitchedAt {
		return nil
	}
	at := time.Unix(plan.SwitchedAt, 0).UTC().Format(time.RFC3339)
	return fault.Permanent(fault.Reason{
		Code: "window.turned", Field: "from",
		ZH: "此窗口早于 " + at + " 更换流水接口（stock.flow）的时刻，两种接口的流水编号不同，用新接口补抓会重复下发；请在仓库方系统人工核对该时段",
		EN: "this window lies before " + at + ", when stock.flow was changed: the methods number movements differently, so reading it by the new one would " +
			"publish them again. Compare this time by hand at the warehouse",
	})
}

// part is a window that continues another one.
type part struct {
	stock.Interval
	why  vmiv1.Why
	page int
}

// restOf returns the windows that continue one whose run ended before the page next. One of more than maxPages is read
// anew in two halves; one second cannot be halved, and a gap window keeps the interval that its rows were searched in.
func restOf(span stock.Interval, why vmiv1.Why, next, maxPages int) []part {
	if why == vmiv1.Why_WHY_GAP || next <= maxPages || span.From == span.To {
		return []part{{span, why, next}}
	}
	middle := span.From + (span.To-span.From)/2
	return []part{
		{stock.Interval{From: span.From, To: middle}, vmiv1.Why_WHY_HALF, 1},
		{stock.Interval{From: middle + 1, To: span.To}, vmiv1.Why_WHY_HALF, 1},
	}
}

// widened returns the interval to search for missing movements: that of the window and its gaps, and more with each
// attempt, because clocks and the order of rows may be slightly off. It does not reach beyond now, nor into time that
// is not followed or that another method was read for.
func widened(window stock.Interval, gaps []stock.Gap, attempt int, plan stock.Plan, now time.Time) stock.Interval {
	for _, h := range gaps {
		window.From, window.To = min(window.From, h.Interval().From), max(window.To, h.Interval().To)
	}
	by := min(int64(5)<<min(max(attempt-1, 0), 10), maxWidening)
	return stock.Interval{From: max(window.From-by, plan.Start, plan.SwitchedAt), To: max(min(window.To+by, now.Unix()), window.To)}
}

func overlaps(a, b stock.Interval) bool { return a.From <= b.To && b.From <= a.To }

func overlapping(gaps []stock.Gap, s stock.Interval) []stock.Gap {
	return slices.DeleteFunc(gaps, func(h stock.Gap) bool { return !overlaps(h.Interval(), s) })
}

// readLongAgo reports whether a row without a mark was published all the same: its time was read so long ago that the
// mark may have expired.
func readLongAgo(at, now time.Time, st stock.State) bool {
	old := now.Add(keptMargin - ledger.KeepMarks)
	if st.Head.NewSince.After(old) { // no mark is that old
		return false
	}
	second := at.Unix()
	return at.Before(old) && st.Read.Has(stock.Interval{From: second, To: second})
}

// ruleOf returns the rule by which a row is not to be booked, "" when it is. documents: the shop is booked from its
// documents.
func ruleOf(change int64, row warehouse.Rule, documents bool) string {
	switch {
	case row != warehouse.RuleMoves:
		return string(row)
	case change == 0:
		return string(warehouse.RuleUnchanged)
	case documents:
		return ruleDocuments
	}
	return ""
}
