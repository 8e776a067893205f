package ctl

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/seller"
	orderv1 "stockbridge/proto/order/v1"
)

// overdue is the age from which an order in shadow mode without a verdict is no longer merely waiting: well after the
// workers give up.
const overdue = 3 * time.Hour

type sellerShadowCmd struct {
	Name     string        `arg:"" help:"Seller."`
	Since    time.Duration `default:"72h" placeholder:"DURATION" help:"Only orders and verdicts published since then (default 72h)."`
	Examples int           `default:"3" placeholder:"N" help:"Orders named for each difference and each reason (default 3)."`
	Limit    int           `default:"20" placeholder:"N" help:"Orders listed one by one, the newest first (default 20); 0 lists none."`
}

func (sellerShadowCmd) Help() string {
	return `Shows what we would have sent, and how that differs from what the ERP's own program sent (docs/shadow.md). Reading the stream takes
seconds per million events. Ends 0 when it is safe to switch over: there were orders, and each has a verdict and is the same.`
}

// shadowReport is the answer.
type shadowReport struct {
	Seller string `json:"seller"`
	// InShadow: nothing is sent now. Until is the switch-over, if one is set.
	InShadow bool      `json:"in_shadow"`
	Until    string    `json:"until,omitempty"`
	Since    time.Time `json:"since"`
	// Orders have a verdict; Waiting have none yet, Overdue have had none for so long that somebody has to look.
	Orders   int            `json:"orders"`
	Waiting  int            `json:"waiting"`
	Overdue  int            `json:"overdue"`
	Verdicts map[string]int `json:"verdicts"`
	// Fields, Reasons are the most frequent first.
	Fields  []shadowCount `json:"fields"`
	Reasons []shadowCount `json:"reasons"`
	// Ours and Theirs are the delays in seconds from the event's arrival until we would have sent, and until the ERP's
	// program did.
	Ours   *shadowPace `json:"ours,omitempty"`
	Theirs *shadowPace `json:"theirs,omitempty"`
	Safe   bool        `json:"safe"`
	// Listed are the newest orders that differ; LeftOff counts further ones.
	Listed  []shadowOrder `json:"listed"`
	LeftOff int           `json:"left_off"`
}

type shadowCount struct {
	What     string   `json:"what"`
	Orders   int      `json:"orders"`
	ZH       string   `json:"zh"`
	EN       string   `json:"en"`
	Examples []string `json:"examples"`
}

type shadowPace struct {
	Median float64 `json:"median_seconds"`
	P95    float64 `json:"p95_seconds"`
}

type shadowOrder struct {
	OutboundNo  string       `json:"outbound_no"`
	OrderNo     string       `json:"order_no"`
	WarehouseNo string       `json:"warehouse_no,omitempty"`
	Verdict     string       `json:"verdict"`
	At          time.Time    `json:"at"`
	Reasons     []reasonJSON `json:"reasons,omitempty"`
	Differences []shadowDiff `json:"differences,omitempty"`
}

type shadowDiff struct {
	Field  string `json:"field"`
	Ours   string `json:"ours"`
	Theirs string `json:"theirs"`
	ZH     string `json:"zh"`
	EN     string `json:"en"`
}

func (c sellerShadowCmd) Run(ctx context.Context, a *app) error {
	registry, s, err := a.sellerNamed(ctx, c.Name)
	if err != nil {
		return err
	}
	defer registry.Close()
	b, err := a.bus(ctx)
	if err != nil {
		return err
	}
	r, err := c.report(ctx, b, s, a.now())
	if err != nil {
		return err
	}
	if err := a.show(r, func(w io.Writer) error { return r.write(w, a, s) }); err != nil {
		return err
	}
	if !r.Safe {
		return errWrong
	}
	return nil
}

// report reads the stream once. If an order has several verdicts the last one counts.
func (c sellerShadowCmd) report(ctx context.Context, b *bus.Bus, s *seller.Seller, now time.Time) (*shadowReport, error) {
	r := &shadowReport{
		Seller: c.Name, InShadow: s.InShadow(now), Until: s.Setup.GetShadow().GetUntil(), Since: now.Add(-c.Since).UTC(),
		Verdicts: map[string]int{}, Fields: []shadowCount{}, Reasons: []shadowCount{}, Listed: []shadowOrder{},
	}
	arrived, verdicts := map[string]time.Time{}, map[string]*orderv1.Shadowed{}
	var order []string
	query := bus.EventQuery{Names: []string{event.OrderAudited.Name, event.OrderShadowed.Name}, Seller: c.Name}
	err := b.Events(ctx, query, func(e bus.Stored) error {
		if e.At.Before(r.Since) {
			return nil
		}
		if e.Name == event.OrderAudited.Name {
			m, err := bus.Decode(event.OrderAudited, e)
			if err != nil || m.Seller != c.Name || !s.Shadows(m.AuditedAt.AsTime(), e.At) {
				return nil // unreadable events are dead letters
			}
			if _, again := arrived[m.OutboundNo]; !again {
				arrived[m.OutboundNo] = e.At
			}
			return nil
		}
		m, err := bus.Decode(event.OrderShadowed, e)
		if err != nil {
			return err
		}
		no := m.GetRef().GetOutboundNo()
		if verdicts[no] == nil {
			order = append(order, no)
		}
		verdicts[no] = m
		return nil
	})
	if err != nil {
		return nil, err
	}
	for no, at := range arrived {
		switch {
		case verdicts[no] != nil:
		case now.Sub(at) > overdue:
			r.Overdue++
		default:
			r.Waiting++
		}
	}
	var ours, theirs []time.Duration
	for _, no := range order {
		m := verdicts[no]
		r.Orders++
		r.Verdicts[verdictWord(m.Verdict)]++
		r.count(c.Examples, m)
		if at, known := arrived[no]; known {
			ours, theirs = after(ours, m.OursAt, at), after(theirs, m.TheirsAt, at)
		}
	}
	r.Ours, r.Theirs = pace(ours), pace(theirs)
	for _, list := range [][]shadowCount{r.Fields, r.Reasons} {
		slices.SortStableFunc(list, func(x, y shadowCount) int {
			return cmp.Or(cmp.Compare(y.Orders, x.Orders), cmp.Compare(x.What, y.What))
		})
	}
	for _, no := range slices.Backward(order) {
		m := verdicts[no]
		if m.Verdict == orderv1.Shadowed_VERDICT_SAME {
			continue
		}
		if len(r.Listed) == c.Limit {
			r.LeftOff++
			continue
		}
		r.Listed = append(r.Listed, listed(m))
	}
	r.Safe = r.Orders > 0 && r.Overdue == 0 && r.Verdicts[verdictWord(orderv1.Shadowed_VERDICT_SAME)] == r.Orders
	return r, nil
}

func verdictWord(v orderv1.Shadowed_Verdict) string {
	return strings.ToLower(strings.TrimPrefix(v.String(), "VERDICT_"))
}

// count counts the differences of an order, each field and reason once.
func (r *shadowReport) count(examples int, m *orderv1.Shadowed) {
	note := func(list *[]shadowCount, what, zh, en string) {
		i := slices.IndexFunc(*list, func(have shadowCount) bool { return have.What == what })
		if i < 0 {
			i = len(*list)
			*list = append(*list, shadowCount{What: what, ZH: zh, EN: en, Examples: []string{}})
		}
		one := &(*list)[i]
		one.Orders++
		if len(one.Examples) < examples {
			one.Examples = append(one.Examples, m.GetRef().GetOutboundNo())
		}
	}
	seen := map[string]bool{}
	for _, d := range m.Differences {
		if !seen[d.Field] {
			note(&r.Fields, d.Field, d.Zh, d.En)
		}
		seen[d.Field] = true
	}
	seen = map[string]bool{}
	for _, reason := range m.Reasons {
		if !seen[reason.Code] {
			note(&r.Reasons, reason.Code, reason.Zh, reason.En)
		}
		seen[reason.Code] = true
	}
}

func listed(m *orderv1.Shadowed) shadowOrder {
	o := shadowOrder{
		OutboundNo: m.GetRef().GetOutboundNo(), OrderNo: m.GetRef().GetOrderNo(), WarehouseNo: m.GetRef().GetWarehouseNo(),
		Verdict: verdictWord(m.Verdict), At: m.At.AsTime().UTC(),
	}
	for _, reason := range m.Reasons {
		o.Reasons = append(o.Reasons, reasonJSON(reasonOf(reason)))
	}
	for _, d := range m.Differences {
		o.Differences = append(o.Differences, shadowDiff{d.Field, d.Ours, d.Theirs, d.Zh, d.En})
	}
	return o
}

func after(list []time.Duration, at *timestamppb.Timestamp, from time.Time) []time.Duration {
	if at == nil {
		return list
	}
	return append(list, max(at.AsTime().Sub(from), 0)) // clocks differ by a little
}

func pace(list []time.Duration) *shadowPace {
	if len(list) == 0 {
		return nil
	}
	slices.Sort(list)
	at := func(share float64) float64 {
		return list[min(int(share*float64(len(list))), len(list)-1)].Round(100 * time.Millisecond).Seconds()
	}
	return &shadowPace{Median: at(.5), P95: at(.95)}
}

// shadowVerdicts in the order of the report, with what to do.
var shadowVerdicts = []struct{ word, zh, en string }{
	{"same", "一致", "the same"},
	{"differs", "有差异：核对映射和 ERP 发布的内容", "differs: look at the mapping and at what the ERP publishes"},
	{"only_ours", "仓库没有：原程序漏单，或编号不同（shadow.find_by）", "not at the warehouse: the ERP's program missed it, or numbers otherwise (shadow.find_by)"},
	{"would_hold", "我们会挂起：补全设置", "we would have held it: complete the set-up"},
	{"would_fail", "我们会拒绝：修改 ERP 发布的内容", "we would have refused it: correct what the ERP publishes"},
	{"not_compared", "无法比较：见 bridgectl dlq ls", "could not be compared: bridgectl dlq ls"},
}

func (r *shadowReport) write(w io.Writer, a *app, s *seller.Seller) error {
	fmt.Fprintln(w, clean(state(s)))
	fmt.Fprintf(w, "%s: %s\n\n", a.pick("自", "since")+" "+when(r.Since),
		a.pick(fmt.Sprintf("%d 单已比较，%d 单等待比较", r.Orders, r.Waiting), count(r.Orders, "order")+" compared, "+strconv.Itoa(r.Waiting)+" waiting to be"))
	t := table{head: []string{"ORDERS", "VERDICT", "WHAT TO DO"}}
	for _, v := range shadowVerdicts {
		if n := r.Verdicts[v.word]; n > 0 {
			t.add(strconv.Itoa(n), v.word, a.pick(v.zh, v.en))
		}
	}
	if r.Overdue > 0 {
		t.add(strconv.Itoa(r.Overdue), "-", a.pick("超过 3 小时没有结论：见 bridgectl dlq ls、held ls，以及 worker 是否在运行",
			"without a verdict for over 3 hours: bridgectl dlq ls, held ls, and whether the workers run"))
	}
	parts := []table{t}
	for _, part := range []struct {
		head string
		list []shadowCount
	}{{"FIELD", r.Fields}, {"REASON", r.Reasons}} {
		t := table{head: []string{"ORDERS", part.head, "EXAMPLES", "WHAT"}}
		for _, one := range part.list {
			t.add(strconv.Itoa(one.Orders), one.What, strings.Join(one.Examples, " "), a.pick(one.ZH, one.EN))
		}
		parts = append(parts, t)
	}
	each := table{head: []string{"OUTBOUND", "WAREHOUSE NO", "VERDICT", "DETAIL"}}
	for _, o := range r.Listed {
		each.add(o.OutboundNo, orDash(o.WarehouseNo), o.Verdict, o.detail(a))
	}
	for _, t := range append(parts, each) {
		if len(t.rows) == 0 {
			continue
		}
		if err := t.write(w, a.columns); err != nil {
			return err
		}
		fmt.Fprintln(w)
	}
	if r.LeftOff > 0 {
		fmt.Fprintln(w, a.pick(fmt.Sprintf("另有 %d 单未列出：--limit", r.LeftOff), fmt.Sprintf("%d more are not listed: --limit", r.LeftOff)))
	}
	if r.Ours != nil && r.Theirs != nil {
		fmt.Fprintln(w, a.pick(
			fmt.Sprintf("从事件到达算起：原程序中位 %.1f 秒（95%% 为 %.1f 秒），我们中位 %.1f 秒", r.Theirs.Median, r.Theirs.P95, r.Ours.Median),
			fmt.Sprintf("from the event's arrival: the ERP's program %.1f s at the median (95 %%: %.1f s), we %.1f s", r.Theirs.Median, r.Theirs.P95, r.Ours.Median)))
	}
	_, err := fmt.Fprintln(w, r.sentence(a))
	return err
}

func (o shadowOrder) detail(a *app) string {
	var parts []string
	for _, reason := range o.Reasons {
		parts = append(parts, reason.Code+": "+a.pick(reason.ZH, reason.EN))
	}
	for _, d := range o.Differences {
		parts = append(parts, fmt.Sprintf("%s: %s ≠ %s", d.Field, orDash(d.Ours), orDash(d.Theirs)))
	}
	return strings.Join(parts, "; ")
}

// sentence answers whether the seller is ready to switch over.
func (r *shadowReport) sentence(a *app) string {
	bad := r.Orders - r.Verdicts[verdictWord(orderv1.Shadowed_VERDICT_SAME)] + r.Overdue
	switch {
	case r.Orders == 0:
		return a.pick("这段时间没有已比较的订单，无法判断能否切换", "no order was compared in this time: nothing can be said about switching over")
	case !r.Safe:
		return a.pick(fmt.Sprintf("暂不能切换：%d 单中有 %d 单需要处理", r.Orders+r.Overdue, bad), fmt.Sprintf("not safe to switch over: %d of %s to be seen to", bad, count(r.Orders+r.Overdue, "order")))
	default:
		return a.pick(fmt.Sprintf("可以切换：%d 单，0 差异", r.Orders), fmt.Sprintf("safe to switch over: %s, 0 differences", count(r.Orders, "order")))
	}
}
