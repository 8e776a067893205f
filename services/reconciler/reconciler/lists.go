package reconciler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/warehouse"
)

// Finding is a document at a warehouse that no audit explains.
type Finding struct {
	WarehouseNo string `json:"warehouse_no"`
	// OutboundNo is the number under which it was sent.
	OutboundNo string `json:"outbound_no"`
	// Account is the set-up's name of the account that holds it.
	Account string      `json:"account"`
	Kind    FindingKind `json:"what"`
	Seen    time.Time   `json:"seen"`
	// Published: the event that it was refused and exists was certainly published.
	Published bool `json:"told,omitempty"`
}

// FindingKind is what is wrong with a document.
type FindingKind string

// The kinds.
const (
	// UnknownDocument: nobody audited its number.
	UnknownDocument FindingKind = "unknown"
	// DuplicateDocument: its number has another document, which is the one that we know.
	DuplicateDocument FindingKind = "twice"
	// RefusedButThere: its order was published as refused.
	RefusedButThere FindingKind = "refused.but.there"
	// refusedLegacy is how an earlier build wrote RefusedButThere.
	refusedLegacy FindingKind = "refused"
)

// List is how far the list of an account was read.
type List struct {
	// Done is until when everything was listed; From, To and Page are the interval in progress, To being zero when
	// there is none.
	Done time.Time `json:"done"`
	From time.Time `json:"from,omitzero"`
	To   time.Time `json:"to,omitzero"`
	Page string    `json:"page,omitempty"`
	// Error is why it could not be read; nothing secret.
	Error string `json:"error,omitempty"`
}

const (
	findingField = "doc/"
	// listOverlap is how much of the interval before is listed again, for documents that moved between two pages.
	listOverlap = time.Hour
	// pagesPerRun and detailsPerRun bound the calls of one run.
	pagesPerRun   = 40
	detailsPerRun = 100
	// maxFindings are remembered, for findingsKept.
	maxFindings  = 1000
	findingsKept = 30 * 24 * time.Hour
)

// ReadFindings reads the documents that no audit explains, the oldest first.
func ReadFindings(ctx context.Context, books ledger.Books, seller string) ([]Finding, error) {
	list, err := readList(ctx, books, seller, findingField, func(f *Finding) (string, time.Time) { return f.WarehouseNo, f.Seen })
	for i := range list {
		if list[i].Kind == refusedLegacy {
			list[i].Kind = RefusedButThere
		}
	}
	return list, err
}

func (c *bookChanges) setFindings(list map[string]*Finding) error {
	for no, s := range list {
		c.fields[findingField+no] = nil
		if s != nil {
			raw, err := json.Marshal(s)
			if err != nil {
				return fmt.Errorf("write finding %s: %w", no, err)
			}
			c.fields[findingField+no] = raw
		}
	}
	return nil
}

// readLists reads the warehouses' lists when nothing else is left to do: see the package comment.
func (r *run) readLists(ctx context.Context) error {
	if r.ListEvery == 0 || !r.walked || r.wait > 0 || r.report.Full || r.seller.Pause != nil || r.seller.InShadow(r.began) {
		return nil
	}
	if err := r.loadFindings(ctx); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, w := range r.seller.Setup.Warehouses {
		if seen[w.Account] {
			continue
		}
		seen[w.Account] = true
		if err := r.readList(ctx, w.Account, w.Code); err != nil {
			return err
		}
	}
	return nil
}

// readList continues the list of one account.
func (r *run) readList(ctx context.Context, account, code string) error {
	if r.report.Lists == nil {
		r.report.Lists = map[string]*List{}
	}
	at := r.report.Lists[account]
	if at == nil {
		at = &List{Done: r.began.Add(-r.Deadline - r.ListBack)}
		r.report.Lists[account] = at
	}
	if at.To.IsZero() {
		to := r.began.Add(-r.Deadline).Truncate(time.Second)
		if to.Sub(at.Done) < r.ListEvery {
			return nil
		}
		at.From, at.To, at.Page = at.Done.Add(-listOverlap), to, ""
	}
	wh, err := r.Open(r.seller, code, quota.Status)
	left := detailsPerRun
	for n := 0; err == nil; n++ {
		if n == pagesPerRun || r.outOfTime(ctx) {
			r.repeatAfter(moreAfter)
			return nil
		}
		var nos []string
		var next string
		r.Metrics.Asked.Inc()
		if nos, next, err = wh.List(ctx, at.From, at.To, at.Page); err != nil {
			break
		}
		var complete bool
		if complete, err = r.checkListed(ctx, wh, account, nos, &left); err != nil {
			break
		}
		if !complete {
			r.repeatAfter(moreAfter)
			return nil
		}
		if at.Page, at.Error = next, ""; next == "" {
			at.Done, at.From, at.To = at.To, time.Time{}, time.Time{}
			return nil
		}
	}
	switch {
	case fault.Of(err) == fault.Wait:
		r.repeatAfter(max(fault.After(err), moreAfter))
	case ctx.Err() != nil:
		return ctx.Err()
	default:
		at.Error = fault.ReasonOf(err, "internal").Error() // the next tick tries again
	}
	return nil
}

// checkListed checks the documents of a page; complete is false when it has more unknown ones than one run may read.
func (r *run) checkListed(ctx context.Context, wh warehouse.OrderReader, account string, nos []string, left *int) (complete bool, err error) {
	for part := range slices.Chunk(nos, ledger.BookWriteLimit) {
		marks := make([]string, len(part))
		for i, no := range part {
			marks[i] = markOf(no)
		}
		book, err := r.Ledger.ReadBook(ctx, bookOf(r.seller.Name()), nil, marks)
		if err != nil {
			return false, err
		}
		for i, no := range part {
			if book.Marked[marks[i]] || slices.ContainsFunc(r.marks, func(m ledger.Mark) bool { return m.Name == marks[i] }) {
				continue
			}
			entries, err := r.Ledger.Find(ctx, r.seller.Name(), no)
			if err != nil {
				return false, err
			}
			if !slices.ContainsFunc(entries, func(e ledger.Entry) bool { return e.Number == no }) {
				if *left--; *left < 0 || r.outOfTime(ctx) {
					return false, nil
				}
				certain, err := r.investigate(ctx, wh, account, no)
				if err != nil {
					return false, err
				}
				if !certain {
					continue // still being handled: the overlap lists it again
				}
			}
			r.marks = append(r.marks, ledger.Mark{Name: marks[i], At: r.began})
		}
	}
	return true, nil
}

func markOf(no string) string { return no[:min(len(no), ledger.MaxMark)] }

// investigate finds out what a document is whose number the ledger does not know; certain is false while that may
// still change.
func (r *run) investigate(ctx context.Context, wh warehouse.OrderReader, account, no string) (certain bool, err error) {
	read, err := wh.Read(ctx, []string{no})
	if err != nil {
		return false, err
	}
	doc, known := read[no]
	if !known {
		return true, nil // listed, and removed since
	}
	if doc.Err != nil {
		return false, doc.Err
	}
	o := r.orders[doc.No]
	open := o != nil && !o.settled
	var entry ledger.Entry
	if doc.No != "" && !open {
		if entry, err = r.entry(ctx, doc.No); err != nil {
			return false, err
		}
	}
	what, kind := judgeDocument(no, doc.No, open, entry, false, nil)
	if what == needsLookup {
		answer, err := wh.Find(ctx, []string{doc.No})
		if err != nil {
			return false, err
		}
		what, kind = judgeDocument(no, doc.No, open, entry, true, answer[doc.No])
	}
	switch {
	case what == ofWarehouse:
		r.report.Own++
	case what == isFinding && r.knownFindings[no] == nil:
		r.addFinding(&Finding{WarehouseNo: no, OutboundNo: doc.No, Account: account, Kind: kind, Seen: r.began}, entry)
	}
	return what != undecided, nil
}

// entry returns the ledger's entry, the zero Entry when there is none.
func (r *run) entry(ctx context.Context, outboundNo string) (ledger.Entry, error) {
	entry, err := r.Ledger.Get(ctx, ledger.Key{Seller: r.seller.Name(), Kind: kind, No: outboundNo})
	if errors.Is(err, ledger.ErrNoEntry) {
		return ledger.Entry{}, nil
	}
	return entry, err
}
