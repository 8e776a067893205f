package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"stockbridge/pkg/kind"
	orderkind "stockbridge/pkg/kind/order"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	documentv1 "stockbridge/proto/document/v1"
)

// trialOrder is an order that was really sent during a trial.
type trialOrder struct {
	OutboundNo  string `json:"outbound_no"`
	OrderNo     string `json:"order_no,omitempty"`
	State       string `json:"state"`
	WarehouseNo string `json:"warehouse_no,omitempty"`
	Status      string `json:"status,omitempty"`
	// Open: the warehouse has it, or may have it, and it has not left. It reserves stock until it is cancelled by hand.
	Open bool `json:"open"`
}

func trialOrders(ctx context.Context, l ledger.Ledger, name string) ([]trialOrder, error) {
	var nos []string
	for _, list := range []string{seller.TrialExtras(name), name} {
		admitted, err := l.Admitted(ctx, list)
		if err != nil {
			return nil, err
		}
		for _, no := range admitted {
			if !slices.Contains(nos, no) {
				nos = append(nos, no)
			}
		}
	}
	orders := make([]trialOrder, 0, len(nos))
	for _, no := range nos {
		e, err := l.Get(ctx, ledger.Key{Seller: name, Kind: orderKind, No: no})
		if errors.Is(err, ledger.ErrNoEntry) || err == nil && e.Unclaimed() {
			orders = append(orders, trialOrder{OutboundNo: no, State: "not sent"})
			continue
		}
		if err != nil {
			return nil, err
		}
		o := trialOrder{OutboundNo: no, OrderNo: e.Group, State: string(e.State), WarehouseNo: e.Number, Open: e.State.Live()}
		state := kind.StateOf[orderkind.State](e)
		o.Status, o.Open = statusWord(state.Status), o.Open && !state.Shipped
		orders = append(orders, o)
	}
	return orders, nil
}

func statusWord(s documentv1.Status) string {
	if s == documentv1.Status_STATUS_UNSPECIFIED {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(s.String(), "STATUS_"))
}

type sellerTrialCmd struct {
	Name string `arg:"" help:"Seller."`
}

func (sellerTrialCmd) Help() string {
	return `During a trial (trial: in the set-up) only listed orders and the first so many are really sent to the warehouse. They reserve
stock there until somebody cancels them by hand (手动取消，以免造成库存损失). Ends 1 when the trial is over and some are open.`
}

func (c sellerTrialCmd) Run(ctx context.Context, a *app) error {
	registry, s, err := a.sellerNamed(ctx, c.Name)
	if err != nil {
		return err
	}
	defer registry.Close()
	l, err := a.ledger(ctx)
	if err != nil {
		return err
	}
	orders, err := trialOrders(ctx, l, c.Name)
	if err != nil {
		return err
	}
	first, on := s.OnTrial()
	open := 0
	t := table{head: []string{"OUTBOUND", "ORDER", "WAREHOUSE NO", "STATE"}}
	for _, o := range orders {
		text := strings.TrimSpace(o.State + " " + o.Status)
		if o.Open {
			open++
			text += " — open: cancel it at the warehouse"
		}
		t.add(o.OutboundNo, orDash(o.OrderNo), orDash(o.WarehouseNo), text)
	}
	doc := struct {
		Seller string       `json:"seller"`
		Trial  bool         `json:"trial"`
		Listed []string     `json:"listed,omitempty"`
		First  int          `json:"first"`
		Open   int          `json:"open"`
		Orders []trialOrder `json:"orders"`
	}{c.Name, on, s.Setup.GetTrial().GetOrders(), first, open, orders}
	err = a.show(doc, func(w io.Writer) error {
		fmt.Fprintln(w, state(s))
		if len(orders) == 0 {
			_, err := fmt.Fprintln(w, "no order was sent in a trial")
			return err
		}
		return t.write(w, a.columns)
	})
	if err == nil && open > 0 && !on {
		return errWrong
	}
	return err
}
