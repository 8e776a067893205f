package ctl

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/wiring"
	orderv1 "stockbridge/proto/order/v1"
	"stockbridge/services/reconciler/reconciler"
)

const (
	// maxListed bounds the rows of the ERP's list.
	maxListed = 200_000
	// readsAtOnce is how many entries of the ledger are read at a time.
	readsAtOnce = 16
	// progressEvery is how many numbers are handled between two progress notes.
	progressEvery = 5000
)

// listRow is a row of the ERP's list with what was found about it.
type listRow struct {
	Seller     string    `json:"seller"`
	OutboundNo string    `json:"outbound_no"`
	OrderNo    string    `json:"order_no,omitempty"`
	AuditedAt  time.Time `json:"audited_at,omitzero"`

	Verdict     string `json:"verdict"`
	WarehouseNo string `json:"warehouse_no,omitempty"`
	// Publish: the ERP has to publish the audit again.
	Publish bool   `json:"publish,omitempty"`
	Detail  string `json:"detail,omitempty"`
	ZH      string `json:"zh"`
	EN      string `json:"en"`

	streamed bool
	entry    ledger.Entry
	// warehouse of its audit, if the stream has one.
	warehouse string
}

// Verdicts on a row.
const (
	listKnown   = "known"
	listRefused = "refused"
	listOpen    = "open"
	listUnheard = "unheard"
	listMissing = "missing"
	listUnasked = "unasked"
)

func (r *listRow) is(verdict string) {
	says := map[string][2]string{
		listKnown:   {"仓库已有", "the warehouse has it"},
		listRefused: {"已被拒绝，见 order explain", "it was refused: bridgectl order explain"},
		listOpen:    {"审核已收到，对账会继续处理", "the audit is here, and the reconciler handles it"},
		listUnheard: {"仓库已有，但没有收到审核：请以相同内容和单号重新发布，之后才会跟踪", "the warehouse has it, and no audit is here: publish it again, same content and number, so that it is followed"},
		listMissing: {"审核已丢失：请以相同内容和单号重新发布", "the audit was lost: publish it again, same content and number"},
		listUnasked: {"没有收到审核，且无法查询仓库；重新发布是安全的，发送前会先查询", "no audit is here, and the warehouse cannot be asked; publishing it again is safe: it is asked for before anything is sent"},
	}
	r.Verdict, r.ZH, r.EN = verdict, says[verdict][0], says[verdict][1]
	r.Publish = slices.Contains([]string{listUnheard, listMissing, listUnasked}, verdict)
}

// compare compares the ERP's list with the stream, the ledger and the warehouses.
func (c reconcileCmd) compare(ctx context.Context, a *app, l ledger.Ledger) error {
	f, err := a.open(c.File)
	if err != nil {
		return err
	}
	rows, err := readList(f, c.Seller)
	_ = f.Close()
	if err != nil {
		return fmt.Errorf("read %s: %w", c.File, err)
	}
	b, err := a.bus(ctx)
	if err != nil {
		return err
	}
	registry, err := a.registry(ctx)
	if err != nil {
		return err
	}
	defer registry.Close()
	if err := c.inStream(ctx, a, b, rows); err != nil {
		return err
	}
	if err := c.inLedger(ctx, a, l, rows); err != nil {
		return err
	}
	ws, _, done, err := a.calling(ctx, l)
	if err != nil {
		return err
	}
	defer done()
	if err := c.atWarehouses(ctx, a, ws, registry, rows); err != nil {
		return err
	}
	return c.writeList(a, rows)
}

// readList reads the list. Errors name the line and the column.
func readList(from io.Reader, usual string) ([]*listRow, error) {
	in := bufio.NewReader(from)
	if head, err := in.Peek(3); err == nil && string(head) == "\ufeff" {
		_, _ = in.Discard(3)
	}
	first, err := firstByte(in)
	if err != nil {
		return nil, err
	}
	var rows []*listRow
	seen := map[string]bool{}
	add := func(line int, r *listRow) error {
		r.Seller = cmp.Or(r.Seller, usual)
		switch {
		case r.OutboundNo == "":
			return fmt.Errorf("row %d: outbound_no is empty", line)
		case r.Seller == "":
			return hint(fmt.Errorf("row %d: seller is empty", line), "--seller names that of all rows without one")
		case !event.ValidSeller(r.Seller):
			return fmt.Errorf("row %d: seller %q: want a-z, 0-9, _ and -, 32 at most", line, r.Seller)
		case len(rows) == maxListed:
			return hint(fmt.Errorf("more than %d rows", maxListed), "split the list")
		}
		if key := r.Seller + "/" + r.OutboundNo; !seen[key] {
			seen[key] = true
			rows = append(rows, r)
		}
		return nil
	}
	if first == '{' || first == '[' {
		err = readJSONList(in, first == '[', add)
	} else {
		err = readCSVList(in, add)
	}
	if err == nil && len(rows) == 0 {
		err = errors.New("it has no rows")
	}
	return rows, err
}

func firstByte(in *bufio.Reader) (byte, error) {
	for {
		b, err := in.ReadByte()
		if errors.Is(err, io.EOF) {
			return 0, errors.New("it is empty")
		}
		if err != nil {
			return 0, err
		}
		if len(bytes.TrimSpace([]byte{b})) > 0 {
			return b, in.UnreadByte()
		}
	}
}

func readJSONList(in io.Reader, array bool, add func(int, *listRow) error) error {
	d := json.NewDecoder(in)
	if array {
		if _, err := d.Token(); err != nil {
			return err
		}
	}
	for line := 1; d.More(); line++ {
		r := &listRow{}
		if err := d.Decode(r); err != nil {
			return fmt.Errorf("row %d: %w", line, err)
		}
		*r = listRow{Seller: r.Seller, OutboundNo: r.OutboundNo, OrderNo: r.OrderNo, AuditedAt: r.AuditedAt}
		if err := add(line, r); err != nil {
			return err
		}
	}
	return nil
}

func readCSVList(in io.Reader, add func(int, *listRow) error) error {
	d := csv.NewReader(in)
	d.TrimLeadingSpace = true
	head, err := d.Read()
	if err != nil {
		return err
	}
	at := map[string]int{}
	for i, name := range head {
		at[strings.ToLower(strings.TrimSpace(name))] = i
	}
	if _, ok := at["outbound_no"]; !ok {
		return fmt.Errorf("the first line must name the columns, outbound_no among them; it says %q", strings.Join(head, ","))
	}
	for line := 2; ; line++ {
		fields, err := d.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		column := func(name string) string {
			if i, ok := at[name]; ok {
				return strings.TrimSpace(fields[i])
			}
			return ""
		}
		r := &listRow{Seller: column("seller"), OutboundNo: column("outbound_no"), OrderNo: column("order_no")}
		if text := column("audited_at"); text != "" {
			if r.AuditedAt, err = time.Parse(time.RFC3339, text); err != nil {
				return fmt.Errorf("row %d: audited_at %q: want RFC 3339 with a zone, like 2026-03-05T09:31:00+08:00", line, text)
			}
		}
		if err := add(line, r); err != nil {
			return err
		}
	}
}

// inStream marks the rows whose audits the stream has.
func (c reconcileCmd) inStream(ctx context.Context, a *app, b *bus.Bus, rows []*listRow) error {
	of := make(map[string]*listRow, len(rows))
	sellers := map[string]bool{}
	for _, r := range rows {
		of[r.Seller+"/"+r.OutboundNo] = r
		sellers[r.Seller] = true
	}
	only := ""
	if len(sellers) == 1 {
		only = rows[0].Seller
	}
	n, noted := 0, a.now()
	return b.Events(ctx, bus.EventQuery{Names: []string{event.OrderAudited.Name}, Seller: only}, func(s bus.Stored) error {
		if n++; a.now().Sub(noted) > 5*time.Second {
			noted = a.now()
			a.note("%d audits of the stream read", n)
		}
		m, err := bus.Decode(event.OrderAudited, s)
		if err != nil {
			return nil //nolint:nilerr // it is a dead letter
		}
		if r := of[m.GetSeller()+"/"+m.GetOutboundNo()]; r != nil {
			r.streamed, r.warehouse = true, m.GetWarehouse()
		}
		return nil
	})
}

// inLedger reads the ledger's entry of each row, and why unfinished ones are not finished.
func (c reconcileCmd) inLedger(ctx context.Context, a *app, l ledger.Ledger, rows []*listRow) error {
	var group errgroup.Group
	group.SetLimit(readsAtOnce)
	open := map[string]map[string]reconciler.Order{}
	for _, r := range rows {
		if open[r.Seller] != nil {
			continue
		}
		list, err := reconciler.ReadOpen(ctx, l, r.Seller)
		if err != nil {
			return err
		}
		open[r.Seller] = map[string]reconciler.Order{}
		for _, o := range list {
			open[r.Seller][o.OutboundNo] = o
		}
	}
	var mu sync.Mutex
	done := 0
	for _, r := range rows {
		group.Go(func() error {
			entry, err := l.Get(ctx, ledger.Key{Seller: r.Seller, Kind: "order", No: r.OutboundNo})
			if err != nil && !errors.Is(err, ledger.ErrNoEntry) {
				return err
			}
			r.entry = entry
			switch {
			case entry.State == ledger.Accepted, entry.State == ledger.Cancelled:
				r.is(listKnown)
				r.WarehouseNo = entry.Number
			case entry.State == ledger.Refused:
				r.is(listRefused)
				r.Detail = a.say(entry.Reason)
			case r.streamed, entry.State != ledger.New:
				r.is(listOpen)
				if o, ok := open[r.Seller][r.OutboundNo]; ok {
					r.Detail = string(o.Reason)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if done++; done%progressEvery == 0 {
				a.note("%d of %d looked up in the ledger", done, len(rows))
			}
			return nil
		})
	}
	return group.Wait()
}

// atWarehouses asks the warehouses for orders that are not known here. Without an audit the warehouse is unknown, so
// each account of the seller is asked.
func (c reconcileCmd) atWarehouses(ctx context.Context, a *app, ws *wiring.Warehouses, registry *seller.Registry, rows []*listRow) error {
	by := map[string][]*listRow{}
	for _, r := range rows {
		if r.Verdict == "" {
			by[r.Seller] = append(by[r.Seller], r)
		}
	}
	for name, list := range by {
		s, ok := registry.Get(name)
		if !ok {
			for _, r := range list {
				r.is(listUnasked)
				r.Detail = a.say(fault.ReasonOf(seller.Unknown(name), ""))
			}
			continue
		}
		asked := map[string]bool{}
		for _, w := range s.Setup.Warehouses {
			if asked[w.Account] {
				continue
			}
			asked[w.Account] = true
			wh, err := ws.Read(s, w.Code, quota.Status)
			most := len(list)
			if err == nil {
				most = wh.FindLimit()
			}
			for part := range slices.Chunk(list, most) {
				var found map[string][]orderDocument
				if err == nil {
					found, err = find(ctx, wh, part)
				}
				if ctx.Err() != nil {
					return ctx.Err()
				}
				for _, r := range part {
					switch docs := found[r.OutboundNo]; {
					case len(docs) > 0:
						r.is(listUnheard)
						r.WarehouseNo, r.Detail = docs[0].Number, ""
					case err != nil && r.Verdict != listUnheard:
						r.is(listUnasked)
						r.Detail = a.say(fault.ReasonOf(err, "internal"))
					}
				}
			}
		}
		for _, r := range list {
			if r.Verdict == "" {
				r.is(listMissing)
			}
		}
	}
	return nil
}

type orderDocument = warehouse.Document[*orderv1.Shipped]

// find looks orders up, and waits for its turn when the quota is used up.
func find(ctx context.Context, wh warehouse.Finder[*orderv1.Shipped], part []*listRow) (map[string][]orderDocument, error) {
	var nos []string
	for _, r := range part {
		if !strings.ContainsAny(r.OutboundNo, ", ") {
			nos = append(nos, r.OutboundNo)
		}
	}
	for {
		found, err := wh.Find(ctx, nos)
		if err == nil || fault.Of(err) != fault.Wait {
			return found, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(max(fault.After(err), 100*time.Millisecond)):
		}
	}
}

func (c reconcileCmd) writeList(a *app, rows []*listRow) error {
	counts, publish := map[string]int{}, 0
	t := table{head: []string{"SELLER", "OUTBOUND", "ORDER", "VERDICT", "WAREHOUSE NO", "WHAT TO DO"}}
	doc := struct {
		Rows     int            `json:"rows"`
		Verdicts map[string]int `json:"verdicts"`
		Publish  int            `json:"publish"`
		Orders   []*listRow     `json:"orders"`
		LeftOff  int            `json:"left_off,omitempty"`
	}{Rows: len(rows), Verdicts: counts, Orders: []*listRow{}}
	for _, r := range rows {
		counts[r.Verdict]++
		if r.Publish {
			publish++
		} else if !c.All {
			continue
		}
		if len(doc.Orders) == c.Limit {
			doc.LeftOff++
			continue
		}
		doc.Orders = append(doc.Orders, r)
		text := a.pick(r.ZH, r.EN)
		if r.Detail != "" {
			text = r.Detail + " — " + text
		}
		t.add(r.Seller, r.OutboundNo, orDash(r.OrderNo), r.Verdict, orDash(r.WarehouseNo), text)
	}
	doc.Publish = publish
	err := a.show(doc, func(w io.Writer) error {
		summary := count(len(rows), "number") + ":"
		for _, v := range []string{listKnown, listRefused, listOpen, listUnheard, listMissing, listUnasked} {
			if n := counts[v]; n > 0 {
				summary += " " + v + " " + strconv.Itoa(n)
			}
		}
		if _, err := fmt.Fprintln(w, summary); err != nil || len(t.rows) == 0 {
			return err
		}
		if err := t.write(w, a.columns); err != nil {
			return err
		}
		if doc.LeftOff > 0 {
			a.note("%d more: --limit", doc.LeftOff)
		}
		return nil
	})
	if err == nil && publish > 0 {
		err = errWrong
	}
	return err
}
