package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"stockbridge/pkg/jdsandbox"
)

// businessCode is the sandbox's for business errors.
const businessCode = "5001"

// leftCodes are the statuses of documents that have left the warehouse, in the sandbox's default walk.
var leftCodes = []jdsandbox.Code{"10019", "10020", "10032", "10054", "10033", "10034"}

// judge compares what the sandbox has with what the streams have, prints both, and names each broken promise.
func (s *story) judge(ctx context.Context) error {
	seen := s.view
	if err := seen.Update(ctx); err != nil {
		return err
	}
	docs, err := s.jd.Documents(ctx, jdsandbox.Query{})
	if err != nil {
		return err
	}
	violations, err := s.jd.Violations(ctx)
	if err != nil {
		return err
	}
	counters, err := s.jd.Counters(ctx)
	if err != nil {
		return err
	}
	has := map[string][]jdsandbox.Document{}
	waybills := map[string][]string{}
	for _, d := range docs {
		if d.Parent == "" {
			has[d.IsvUUID] = append(has[d.IsvUUID], d)
		}
		waybills[d.IsvUUID] = append(waybills[d.IsvUUID], d.WayBills...)
	}

	var broken []string
	breaks := func(format string, args ...any) { broken = append(broken, fmt.Sprintf(format, args...)) }
	var accepted, shipped, held, released, refused, doubles int
	for _, o := range s.made {
		t, d := seen.Orders[o.OutboundNo], has[o.OutboundNo]
		if t == nil {
			breaks("%s: the streams do not know it", o.OutboundNo)
			continue
		}
		if len(t.Held) > 0 {
			held++
		}
		if len(d) > 1 || len(t.Accepted) > 1 {
			doubles++
		}
		if len(d) > 1 {
			breaks("P1 %s: the sandbox has %d documents", o.OutboundNo, len(d))
		}
		if slices.Contains(s.bad, o.OutboundNo) {
			if len(d) > 0 || len(t.Accepted) > 0 || len(t.Failed) != 1 {
				breaks("P2 %s: refused, yet %d documents, accepted %v, failed %v", o.OutboundNo, len(d), t.Accepted, t.Failed)
			}
			refused++
			continue
		}
		if len(t.Accepted) != 1 || len(d) != 1 || d[0].EclpSoNo != t.Accepted[0] {
			breaks("P1 %s: the streams say %v, the sandbox has %d documents", o.OutboundNo, t.Accepted, len(d))
			continue
		}
		accepted++
		if t.Complete == 1 {
			shipped++
		} else {
			breaks("%s: shipped %v, complete %d times", o.OutboundNo, t.Shipped, t.Complete)
		}
		if len(t.Held) > 0 {
			released++
		}
		slices.Sort(t.Waybills)
		at := slices.Clone(waybills[o.OutboundNo])
		slices.Sort(at)
		if !slices.Equal(t.Waybills, at) {
			breaks("%s: waybills published %v, the sandbox has %v", o.OutboundNo, t.Waybills, at)
		}
	}
	if len(has) != accepted {
		breaks("the sandbox has %d orders, the streams say %d", len(has), accepted)
	}
	if parted := seen.Orders[s.split]; parted == nil || len(parted.Shipped) != 2 || len(parted.Waybills) != 2 {
		breaks("%s: split in two, published %+v", s.split, parted)
	}
	if t := seen.Orders[s.invalid]; t == nil || len(t.Failed) != 1 || len(has[s.invalid]) > 0 {
		breaks("%s: a quantity below zero, published %+v", s.invalid, t)
	}
	if seen.Unreadable != s.unread {
		breaks("%d audits cannot be read, %d were sent so", seen.Unreadable, s.unread)
	}
	if s.dropped != s.unread || s.replayed != len(s.gone) {
		breaks("dead letters: %d of %d unreadable, %d of %d refused for stock", s.dropped, s.unread, s.replayed, len(s.gone))
	}
	if held != len(s.held) || released != held {
		breaks("held %d and released %d, expected %d", held, released, len(s.held))
	}
	if left := count(docs, leftCodes...); left != shipped {
		breaks("shipped: the streams say %d, the sandbox %d", shipped, left)
	}
	// Orders out of stock were refused, and taken when they were replayed.
	no, err := s.refusedAtJD(ctx)
	if err != nil {
		return err
	}
	if no != refused && calls(counters) <= 10_000 { // of more calls the log forgets the first
		breaks("refused: the streams say %d, the sandbox %d", refused, no)
	}
	if violations.Total != 0 {
		breaks("the sandbox counts violations: %v", violations.Counts)
	}

	fmt.Fprintln(s.out)
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	row := func(en, zh string, streams, sandbox any) {
		fmt.Fprintf(w, "%s\t%v\t%v\t%s\n", en, streams, sandbox, zh)
	}
	row("", "", "streams", "sandbox")
	row("in (orders / messages)", "收到（订单数/消息数）", fmt.Sprintf("%d / %d", s.orders, seen.Events["order.audited"]), "")
	row("accepted", "已接收", accepted, len(has))
	row("held, then released", "挂起后放行", fmt.Sprintf("%d, %d", held, released), "")
	row("refused with a reason", "已拒绝（附原因）", refused, no)
	row("shipped", "已发货", shipped, count(docs, leftCodes...))
	row("split: waybills of one order", "拆单：一单的运单数", len(seen.Orders[s.split].Waybills), len(waybills[s.split]))
	row("lost answers, all resolved", "应答丢失，均已查明", "", counters.LostAnswers)
	row("dead-lettered, then replayed", "进入死信后重放", s.replayed, "")
	row("unreadable, dead-lettered whole", "无法识别，已完整保存", s.unread, "")
	row("doubles", "重复发货", doubles, violations.Counts[jdsandbox.TwoDocuments])
	row("violations of any kind", "各类违规合计", "", violations.Total)
	if err := w.Flush(); err != nil {
		return err
	}
	if len(broken) > 0 {
		const most = 20
		shown := broken[:min(len(broken), most)]
		return errors.New(fmt.Sprintf("%d promises broken:\n  ", len(broken)) + strings.Join(shown, "\n  "))
	}
	s.print("streams and sandbox agree", "事件流与沙箱一致", "")
	return nil
}

// calls is how many calls the sandbox had.
func calls(c jdsandbox.Counters) (n int64) {
	for _, of := range c.Calls {
		n += of
	}
	return n
}

// refusedAtJD counts the orders that the sandbox refused and has not taken since. One may be refused twice: when its
// outcome could not be looked up, it was sent again.
func (s *story) refusedAtJD(ctx context.Context) (int, error) {
	refused := map[string]bool{}
	for after := int64(0); ; {
		calls, err := s.jd.Calls(ctx, after)
		if err != nil || len(calls) == 0 {
			return len(refused), err
		}
		for _, c := range calls {
			switch {
			case c.Code == businessCode && c.IsvUUID != "":
				refused[c.IsvUUID] = true
			case c.Done:
				delete(refused, c.IsvUUID)
			}
			after = c.Seq
		}
	}
}

// count counts documents without children that passed one of the codes.
func count(docs []jdsandbox.Document, codes ...jdsandbox.Code) int {
	orders := map[string]bool{}
	for _, d := range docs {
		if slices.Contains(codes, d.Status) {
			orders[d.IsvUUID] = true
		}
	}
	return len(orders)
}
