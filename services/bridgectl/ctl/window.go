package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/stock"
	vmiv1 "stockbridge/proto/vmi/v1"
	"stockbridge/services/vmi-ingester/ingester"
)

type windowCmd struct {
	Ls      windowLsCmd      `cmd:"" help:"How far the flow of each shop's stock was read, and which spans could not be."`
	Refetch windowRefetchCmd `cmd:"" help:"Read spans again (补抓)."`
}

// windowJSON is a dead-lettered or held span.
type windowJSON struct {
	deadLetterJSON
	Place   string    `json:"place"`
	From    time.Time `json:"from"`
	To      time.Time `json:"to"`
	GoodsNo string    `json:"goods_no,omitempty"`
	Reading string    `json:"reading"`
}

// flowJSON is how far the flow of a place was read.
type flowJSON struct {
	Seller    string `json:"seller"`
	Warehouse string `json:"warehouse"`
	ShopNo    string `json:"shop_no"`
	// Read is the time up to which everything was read; Planned the time up to which reading was asked for.
	Read    time.Time `json:"read,omitzero"`
	Planned time.Time `json:"planned,omitzero"`
	// Unread are spans before Planned that were not read yet; Broken counts items with missing movements, 1000 at most.
	Unread []spanJSON `json:"unread"`
	Broken int        `json:"broken"`
}

type spanJSON struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

type windowLsCmd struct {
	Seller string `placeholder:"NAME" help:"Only of this seller."`
	Cause  string `placeholder:"TEXT" help:"Only what waits for this cause."`
	Code   string `placeholder:"CODE" help:"Only with this reason code, like gap.open."`
	page
}

func (windowLsCmd) Help() string {
	return `Lists spans that could not be read with the reason in the warehouse's own words; later spans are read all the same.
A span that waits for a cause continues automatically when it is gone.

  bridgectl window ls --seller acme
  bridgectl window ls --code gap.open -o json`
}

func (c windowLsCmd) Run(ctx context.Context, a *app) error {
	if c.Limit < 1 {
		return misused("--limit must be 1 at least")
	}
	b, err := a.bus(ctx)
	if err != nil {
		return err
	}
	flows, err := a.flows(ctx, c.Seller)
	if err != nil {
		return err
	}
	items, next, err := windows(ctx, a, b, pick{Seller: c.Seller, Cause: c.Cause, Code: c.Code}, c.page)
	if err != nil {
		return err
	}
	doc := struct {
		Flows   []flowJSON   `json:"flows"`
		Windows []windowJSON `json:"windows"`
		Next    uint64       `json:"next,omitempty"`
	}{flows, []windowJSON{}, next}
	for _, m := range items {
		doc.Windows = append(doc.Windows, windowOf(m))
	}
	return a.show(doc, func(w io.Writer) error {
		if len(flows) == 0 {
			_, err := fmt.Fprintln(w, "no shop has a booking: nothing is followed")
			return err
		}
		t := table{head: []string{"SELLER", "PLACE", "READ UNTIL", "PLANNED UNTIL", "UNREAD SPANS", "BROKEN GOODS"}}
		for _, f := range flows {
			t.add(f.Seller, f.Warehouse+"/"+f.ShopNo, orDash(when(f.Read)), orDash(when(f.Planned)), strconv.Itoa(len(f.Unread)), strconv.Itoa(f.Broken))
		}
		if err := t.write(w, a.columns); err != nil || len(items) == 0 {
			return err
		}
		fmt.Fprintln(w)
		if err := a.windowTable(w, items); err != nil {
			return err
		}
		if next != 0 {
			a.note("more: --after %d", next)
		}
		return nil
	})
}

func (a *app) windowTable(w io.Writer, items []bus.DeadLetter) error {
	t := table{head: []string{"NO", "SELLER", "PLACE", "FROM", "TO", "GOODS", "TRIES", "WHY"}}
	for _, m := range items {
		x := windowOf(m)
		t.add(strconv.FormatUint(m.Seq, 10), orDash(m.Seller), x.Place, when(x.From), when(x.To), orDash(x.GoodsNo), strconv.Itoa(m.Attempts), a.why(m))
	}
	return t.write(w, a.columns)
}

// windows reads a page of the dead-lettered and the held spans, oldest first.
func windows(ctx context.Context, a *app, b *bus.Bus, p pick, g page) (items []bus.DeadLetter, next uint64, err error) {
	enough := errors.New("enough")
	p.Consumer = ingester.Windows
	err = p.paged(ctx, b, "", g.After, true, func(m bus.DeadLetter) error {
		if len(items) == g.Limit {
			next = items[g.Limit-1].Seq
			return enough
		}
		items = append(items, m)
		return nil
	})
	if errors.Is(err, enough) {
		err = nil
	}
	if err == nil && len(items) == 0 && g.After == 0 {
		err = p.mistyped(ctx, a, b)
	}
	return items, next, err
}

func windowOf(m bus.DeadLetter) windowJSON {
	x := windowJSON{deadLetterJSON: deadLetterOf(m), Place: "-"}
	due := &vmiv1.WindowDue{}
	if (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(asJSON(m), due) == nil {
		x.Place, x.GoodsNo = due.GetWarehouse()+"/"+due.GetShopNo(), due.GetGoodsNo()
		x.From, x.To = due.GetFrom().AsTime(), due.GetTo().AsTime()
		x.Reading = strings.ToLower(strings.TrimPrefix(due.GetWhy().String(), "WHY_"))
	}
	return x
}

// flows reports how far the flows of a seller's places were read, of all sellers when name is empty.
func (a *app) flows(ctx context.Context, name string) ([]flowJSON, error) {
	registry, err := a.registry(ctx)
	if err != nil {
		return nil, err
	}
	defer registry.Close()
	sellers := registry.All()
	if name != "" {
		s, ok := registry.Get(name)
		if !ok {
			return nil, hint(seller.Unknown(name), "bridgectl seller ls")
		}
		sellers = []*seller.Seller{s}
	}
	l, err := a.ledger(ctx)
	if err != nil {
		return nil, err
	}
	store := &stock.Store{Books: l, Now: a.now}
	flows := []flowJSON{}
	for _, s := range sellers {
		for _, p := range s.Places() {
			place := stock.Place{Seller: s.Name(), Warehouse: p.Warehouse, ShopNo: p.ShopNo}
			st, err := store.State(ctx, place)
			if err != nil {
				return nil, err
			}
			broken, err := store.CountBroken(ctx, place, 1000)
			if err != nil {
				return nil, err
			}
			f := flowJSON{Seller: s.Name(), Warehouse: p.Warehouse, ShopNo: p.ShopNo, Unread: []spanJSON{}, Broken: broken}
			if st.Plan.Until != 0 {
				f.Planned = time.Unix(st.Plan.Until, 0).UTC()
			}
			if len(st.Read) > 0 {
				f.Read = time.Unix(st.Read.Until(st.Plan.Start), 0).UTC()
			}
			for _, u := range st.Read.Unread() {
				from, to := u.Times()
				f.Unread = append(f.Unread, spanJSON{from, to})
			}
			flows = append(flows, f)
		}
	}
	return flows, nil
}

type windowRefetchCmd struct {
	No     []uint64 `arg:"" optional:"" name:"no" help:"Numbers, as ls prints them."`
	Seller string   `placeholder:"NAME" help:"Of this seller."`
	Cause  string   `placeholder:"TEXT" help:"All that waits for this cause."`
	Code   string   `placeholder:"CODE" help:"All that failed with this reason code, like warehouse.refused."`
	Place  string   `placeholder:"WAREHOUSE/SHOP_NO" help:"Any span of this place, whether it was read or not; with --from and --to."`
	From   string   `placeholder:"TIME" help:"Beginning, like 2026-03-05T09:00:00+08:00."`
	To     string   `placeholder:"TIME" help:"End, which belongs to the span."`
	Goods  string   `placeholder:"NO" help:"Only this item, by the warehouse's number; with --place."`
	Why    string   `placeholder:"TEXT" help:"Why, kept with what is done."`
	DryRun bool     `help:"Only print what would be done."`
	// PerSecond limits the replay of dead letters.
	PerSecond float64 `default:"20" help:"At most this many a second."`
}

func (windowRefetchCmd) Help() string {
	return `Reads spans of a shop's flow again: those that failed, by number, cause or code; or any span of a place. Rows that are
known are not published again, so it can be repeated. There is nothing to undo: what is read is what the
warehouse says. The act records who asked.

  bridgectl window refetch 17
  bridgectl window refetch --code warehouse.refused --seller acme --dry-run
  bridgectl window refetch --seller acme --place W01/ESP0020000000001 --from 2026-03-05T00:00:00+08:00 --to 2026-03-05T12:00:00+08:00`
}

// maxRefetch is how far back a span may reach: rows of older spans are no longer remembered one by one, and would be
// published again.
const maxRefetch = 50 * 24 * time.Hour

// refetchSpan is the length of the windows that a range is split into.
const refetchSpan = time.Hour

// refetchJSON is what a refetch did, or would do.
type refetchJSON struct {
	Done   string     `json:"done"`
	DryRun bool       `json:"dry_run,omitempty"`
	Count  int        `json:"count"`
	No     []uint64   `json:"no,omitempty"`
	Spans  []spanJSON `json:"spans,omitempty"`
}

func (c windowRefetchCmd) Run(ctx context.Context, a *app) error {
	switch {
	case c.Place != "" && (len(c.No) > 0 || c.Cause != "" || c.Code != ""):
		return misused("--place names any span; give numbers, --cause or --code for those that failed")
	case c.Place != "":
		return c.span(ctx, a)
	case c.From != "" || c.To != "" || c.Goods != "":
		return misused("--from, --to and --goods need --place")
	case len(c.No) > 0 && (c.Seller != "" || c.Cause != "" || c.Code != ""):
		return misused("give numbers or a selection, not both")
	case len(c.No) == 0 && c.Seller == "" && c.Cause == "" && c.Code == "":
		return misused("say which: numbers, --seller, --cause or --code of those that failed, or --place with --from and --to")
	}
	return c.failed(ctx, a)
}

// failed reads dead-lettered and held spans again.
func (c windowRefetchCmd) failed(ctx context.Context, a *app) error {
	b, err := a.bus(ctx)
	if err != nil {
		return err
	}
	var chosen []bus.DeadLetter
	for _, no := range c.No {
		m, err := b.DeadLetter(ctx, no)
		if errors.Is(err, bus.ErrNoDeadLetter) || err == nil && m.Consumer != ingester.Windows {
			return hint(fmt.Errorf("window %d: %w", no, bus.ErrNoDeadLetter), "bridgectl window ls; it may have been read meanwhile")
		}
		if err != nil {
			return err
		}
		chosen = append(chosen, m)
	}
	if len(c.No) == 0 {
		for g := (page{Limit: pageSize}); ; {
			items, next, err := windows(ctx, a, b, pick{Seller: c.Seller, Cause: c.Cause, Code: c.Code}, g)
			if err != nil {
				return err
			}
			chosen = append(chosen, items...)
			if g.After = next; next == 0 {
				break
			}
		}
	}
	done := refetchJSON{Done: "asked for", DryRun: c.DryRun}
	if c.DryRun {
		for _, m := range chosen {
			done.No = append(done.No, m.Seq)
		}
		done.Count = len(chosen)
		return a.show(done, func(w io.Writer) error {
			fmt.Fprintf(w, "would be read again: %s\n", count(len(chosen), "span"))
			if len(chosen) == 0 {
				return nil
			}
			return a.windowTable(w, chosen[:min(len(chosen), maxSample)])
		})
	}
	d := deed{verb: "window refetch", seller: c.Seller, target: pick{Seller: c.Seller, Cause: c.Cause, Code: c.Code}.words(), why: c.Why}
	if len(chosen) > 0 {
		by := bus.By{Who: a.Who, Why: c.Why, Release: true}
		done.No, _, err = a.actOn(ctx, d, len(chosen), chosen[:min(len(chosen), actPart)], c.PerSecond, func(f func(bus.DeadLetter) error) error {
			for _, m := range chosen {
				if err := f(m); err != nil {
					return err
				}
			}
			return nil
		}, func(m bus.DeadLetter) error { return b.Replay(ctx, m.Seq, by) })
		done.Count = len(done.No)
	}
	shown := a.show(done, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s again: %s; bridgectl window ls shows what became of them\n", done.Done, count(done.Count, "span"))
		return err
	})
	if err != nil {
		return hint(err, "%d of %d were asked for; the same command continues with the rest", done.Count, len(chosen))
	}
	return shown
}

// span asks for any span of a place.
func (c windowRefetchCmd) span(ctx context.Context, a *app) error {
	warehouse, shopNo, ok := strings.Cut(c.Place, "/")
	from, fromErr := time.Parse(time.RFC3339, c.From)
	to, toErr := time.Parse(time.RFC3339, c.To)
	switch {
	case c.Seller == "":
		return misused("--place needs --seller")
	case !ok || warehouse == "" || shopNo == "":
		return misused("--place: want WAREHOUSE/SHOP_NO, as window ls prints it")
	case fromErr != nil:
		return misused("--from: want a time with its zone, like 2026-03-05T09:00:00+08:00")
	case toErr != nil:
		return misused("--to: want a time with its zone, like 2026-03-05T12:00:00+08:00")
	case from.After(to):
		return misused("--from must not be after --to")
	case to.After(a.now()):
		return misused("--to must not be in the future")
	case a.now().Sub(from) > maxRefetch:
		return misused("--from may be %d days ago at most: rows of older spans are no longer remembered one by one, and would be booked again", int(maxRefetch.Hours()/24))
	}
	registry, s, err := a.sellerNamed(ctx, c.Seller)
	if err != nil {
		return err
	}
	defer registry.Close()
	if _, ok := s.Place(warehouse, shopNo); !ok {
		return hint(fmt.Errorf("%s has no shop with a booking at %s", c.Seller, c.Place), "bridgectl window ls --seller %s lists its places", c.Seller)
	}
	wish := a.now().UTC().Format("20060102T150405.000")
	done := refetchJSON{Done: "asked for", DryRun: c.DryRun}
	var events []event.Event
	for at := from.Truncate(time.Second); !at.After(to); at = at.Add(refetchSpan) {
		until := at.Add(refetchSpan - time.Second)
		if until.After(to) {
			until = to.Truncate(time.Second)
		}
		done.Spans = append(done.Spans, spanJSON{at.UTC(), until.UTC()})
		events = append(events, ingester.Window(&vmiv1.WindowDue{
			Seller: c.Seller, Warehouse: warehouse, ShopNo: shopNo, GoodsNo: c.Goods, Why: vmiv1.Why_WHY_REFETCH,
			From: timestamppb.New(at), To: timestamppb.New(until),
		}, a.now(), wish))
	}
	done.Count = len(events)
	verb := "would be asked for"
	if !c.DryRun {
		verb = "asked for"
		b, err := a.bus(ctx)
		if err != nil {
			return err
		}
		target := fmt.Sprintf("%s from %s to %s", c.Place, from.Format(time.RFC3339), to.Format(time.RFC3339))
		if c.Goods != "" {
			target += " goods " + c.Goods
		}
		if err := a.do(ctx, deed{"window refetch", c.Seller, target, c.Why}, func() (int, error) {
			return len(events), b.Publish(ctx, events...)
		}); err != nil {
			return hint(err, "the same command asks again; known movements are not published twice")
		}
	}
	return a.show(done, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s: %s of %s; bridgectl window ls shows what became of them\n", verb, count(len(events), "span"), c.Place)
		return err
	})
}
