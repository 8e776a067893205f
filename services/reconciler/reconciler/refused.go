package reconciler

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	documentv1 "stockbridge/proto/document/v1"
)

const (
	// refusedFor is how long a refused order is looked up: what a warehouse shows later than that, its own lists
	// report. It stays below ledger.RefusalsKept.
	refusedFor = 24 * time.Hour
	// refusedPage is how many refusals are read at a time. It must stay above what one round trip to the ledger
	// writes in the same microsecond (some hundred).
	refusedPage = 500
	// refusedPerRun bounds the numbers that one run looks up; a hundred are one call.
	refusedPerRun = 1000
)

// RefusedPass is how far refused orders were looked up.
type RefusedPass struct {
	// Done is when the last pass ended, From where the pass in progress continues; zero when there is none.
	Done time.Time `json:"done,omitzero"`
	From time.Time `json:"from,omitzero"`
}

// checkRefused looks up orders that were published as failed lately: the warehouses may have them after all.
func (r *run) checkRefused(ctx context.Context) error {
	if r.RefusedEvery == 0 || r.seller.Pause != nil || r.seller.InShadow(r.began) {
		return nil
	}
	if err := r.loadFindings(ctx); err != nil {
		return err
	}
	pass := &r.report.RefusedPass
	if pass.From.IsZero() {
		if r.began.Sub(pass.Done) < r.RefusedEvery {
			return nil
		}
		// Check earlier findings too: a person may have had the document cancelled.
		if err := r.dropResolved(ctx); err != nil {
			return err
		}
		pass.From = r.began.Add(-refusedFor)
	}
	for asked := 0; ; {
		if asked >= refusedPerRun || r.outOfTime(ctx) {
			r.repeatAfter(moreAfter)
			return nil
		}
		entries, err := r.Ledger.Refusals(ctx, r.seller.Name(), kind, pass.From, refusedPage)
		if err != nil {
			return err
		}
		asked += len(entries)
		by := map[string][]ledger.Entry{}
		for _, e := range entries {
			by[e.Warehouse] = append(by[e.Warehouse], e)
		}
		for code, list := range by {
			complete, err := r.findRefused(ctx, code, list)
			if err != nil || !complete {
				return err
			}
		}
		if len(entries) < refusedPage {
			pass.Done, pass.From = r.began, time.Time{}
			return nil
		}
		last := entries[len(entries)-1].ChangedAt
		if !last.After(pass.From) {
			last = pass.From.Add(time.Microsecond)
		}
		pass.From = last
	}
}

// findRefused looks refused orders up at one warehouse; complete is false when it has to be asked again later. A
// warehouse that cannot be asked is left until the next pass: its orders are refused, and stay so.
func (r *run) findRefused(ctx context.Context, code string, list []ledger.Entry) (complete bool, err error) {
	wh, err := r.Open(r.seller, code, quota.Status)
	for len(list) > 0 && err == nil {
		n := min(len(list), wh.FindLimit())
		nos := make([]string, n)
		for i, e := range list[:n] {
			nos[i] = e.Key.No
		}
		r.Metrics.Asked.Inc()
		var answer map[string][]order
		if answer, err = wh.Find(ctx, nos); err != nil {
			break
		}
		for _, no := range nos {
			number, there := exists(answer, no)
			if !there {
				continue
			}
			if err := r.addRefusedButThere(ctx, no, number); err != nil {
				return false, err
			}
		}
		list = list[n:]
	}
	switch {
	case err == nil:
		return true, nil
	case ctx.Err() != nil:
		return false, ctx.Err()
	case fault.Of(err) == fault.Wait: // the quota is used up
		r.repeatAfter(max(fault.After(err), moreAfter))
		return false, nil
	}
	r.Log.Warn().Err(err).Str("seller", r.seller.Name()).Str("warehouse", code).Msg("refused orders cannot be looked up; the next pass tries again")
	return true, nil
}

// addRefusedButThere names an order that was refused and that the warehouse has. It is left to a person: the ERP may
// have refunded it. Publishing it as accepted could let it ship unseen; sending it again would ship it twice.
func (r *run) addRefusedButThere(ctx context.Context, no, warehouseNo string) error {
	entry, err := r.entry(ctx, no)
	if err != nil || entry.State != ledger.Refused || r.knownFindings[warehouseNo] != nil {
		return err
	}
	account := ""
	for _, w := range r.seller.Setup.Warehouses {
		if w.Code == entry.Warehouse {
			account = w.Account
		}
	}
	r.addFinding(&Finding{WarehouseNo: warehouseNo, OutboundNo: no, Account: account, Kind: RefusedButThere, Seen: r.began}, entry)
	return nil
}

// addFinding names a document. One whose order was refused is published too.
func (r *run) addFinding(s *Finding, entry ledger.Entry) {
	if r.report.Findings++; r.report.Findings <= maxFindings {
		r.findings[s.WarehouseNo], r.knownFindings[s.WarehouseNo] = s, s
	}
	r.Log.Warn().Str("seller", r.seller.Name()).Str("warehouse_no", s.WarehouseNo).Str("order", s.OutboundNo).Str("what", string(s.Kind)).
		Msg("the warehouse has a document that no audit explains, or whose order it refused")
	if s.Kind == RefusedButThere {
		r.report.RefusedButThere++
		r.publishRefusedButThere(s, entry)
	}
}

// publishRefusedButThere publishes that a person has to handle an order that failed and is at the warehouse.
func (r *run) publishRefusedButThere(s *Finding, e ledger.Entry) {
	cause := seller.CauseOperator(e.Key.Seller, e.Key.No)
	why := fault.Reason{
		Code: "refused.but.there", Field: "outbound_no", RemoteCode: e.Reason.RemoteCode, RemoteText: e.Reason.RemoteText,
		ZH: "此订单曾告知失败，但仓库实际已有单据 " + s.WarehouseNo + "：若已退款，请立即在仓库取消该单；若仍要发货，请重放死信使其被接收",
		EN: "this order was published as failed, and the warehouse has it as " + s.WarehouseNo + ": if it was refunded, have that cancelled at once; if it is to ship, replay its dead letter, which adopts it",
	}
	m := &documentv1.Held{
		Ref: &documentv1.Ref{
			Seller: e.Key.Seller, Shop: e.Shop, Warehouse: e.Warehouse, OrderNo: e.Group, OutboundNo: e.Key.No, Revision: e.Revision, WarehouseNo: s.WarehouseNo,
			Kind: e.Key.Kind, No: e.Key.No,
		},
		At: timestamppb.New(s.Seen), Cause: cause,
		Reason: event.Reason(why),
	}
	r.events = append(r.events, event.OrderHeld.About(e.Key.Seller, e.Key.No, s.Seen, m, event.Revision(e.Revision), cause, string(RefusedButThere)))
}

// loadFindings reads the documents that were named before, once in a run. It removes those that are explained by now,
// and publishes refused ones once more if the run that named them may have died before it was done.
func (r *run) loadFindings(ctx context.Context) error {
	if r.knownFindings != nil {
		return nil
	}
	list, err := ReadFindings(ctx, r.Ledger, r.seller.Name())
	if err != nil {
		return err
	}
	r.findings, r.knownFindings = map[string]*Finding{}, map[string]*Finding{}
	r.report.Findings, r.report.RefusedButThere = 0, 0
	for _, s := range list {
		entry, err := r.entry(ctx, s.OutboundNo)
		if err != nil {
			return err
		}
		if !s.stands(entry, r.began) {
			r.findings[s.WarehouseNo] = nil
			continue
		}
		r.knownFindings[s.WarehouseNo] = &s
		r.report.Findings++
		if s.Kind == RefusedButThere {
			r.report.RefusedButThere++
		}
		if s.publishAgain() {
			s.Published = true
			r.findings[s.WarehouseNo] = &s
			r.publishRefusedButThere(&s, entry)
		}
	}
	return nil
}

// dropResolved drops findings of refused orders whose document no longer exists.
func (r *run) dropResolved(ctx context.Context) error {
	by := map[string][]*Finding{}
	for _, s := range r.knownFindings {
		if s.Kind == RefusedButThere {
			by[s.Account] = append(by[s.Account], s)
		}
	}
	for account, list := range by {
		for _, w := range r.seller.Setup.Warehouses {
			if w.Account != account {
				continue
			}
			if err := r.dropGone(ctx, w.Code, list); err != nil {
				return err
			}
			break
		}
	}
	return nil
}

func (r *run) dropGone(ctx context.Context, code string, list []*Finding) error {
	wh, err := r.Open(r.seller, code, quota.Status)
	for len(list) > 0 && err == nil && !r.outOfTime(ctx) {
		n := min(len(list), wh.FindLimit())
		nos := make([]string, n)
		for i, s := range list[:n] {
			nos[i] = s.OutboundNo
		}
		r.Metrics.Asked.Inc()
		var answer map[string][]order
		if answer, err = wh.Find(ctx, nos); err != nil {
			break
		}
		for _, s := range list[:n] {
			if _, there := exists(answer, s.OutboundNo); there {
				continue
			}
			r.findings[s.WarehouseNo] = nil
			delete(r.knownFindings, s.WarehouseNo)
			r.report.Findings--
			r.report.RefusedButThere--
		}
		list = list[n:]
	}
	return ctx.Err() // what could not be looked up stays named
}
