package ctl

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/fault"
	documentv1 "stockbridge/proto/document/v1"
)

const (
	// answerPause is the pause between two looks for the answer to a request.
	answerPause = 500 * time.Millisecond
	// clocksDiffer is how far the broker's clock may be behind ours.
	clocksDiffer = time.Minute
)

type cancelCmd[N noun] struct {
	Seller    string        `arg:"" help:"Seller."`
	No        string        `arg:"" name:"no" help:"The ERP's number."`
	Cause     string        `enum:"operator,refund,change" default:"operator" placeholder:"CAUSE" help:"operator (default), refund or change."`
	RequestID string        `name:"request-id" placeholder:"ID" help:"Repeat a request: the answer is the same (default: a new one)."`
	Wait      time.Duration `default:"1m" placeholder:"DURATION" help:"How long to wait for the answer (default 1m; 0s: not at all)."`
	Yes       bool          `help:"Do not ask. Without a terminal nothing is asked."`
	because
}

func (cancelCmd[N]) Help() string {
	r := rowFor[N]()
	return fmt.Sprintf(`Publishes %[1]s.cancel.requested as an ERP would, and waits for the answer. Ends 0 when the %[2]s is cancelled, 1
when the warehouse refused, when nobody knows, and when there is no answer yet: that one is published when there is one, and the
same command with --request-id finds it.

  bridgectl %[1]s cancel acme PO-77 --why 'ordered twice'`, r.Name, r.EN)
}

// cancelJSON is the answer to a request to cancel.
type cancelJSON struct {
	Kind      string `json:"kind"`
	Seller    string `json:"seller"`
	No        string `json:"no"`
	RequestID string `json:"request_id"`
	// Answer is "cancelled", "refused", "unknown" or, when there is none yet, "waiting".
	Answer      string      `json:"answer"`
	WarehouseNo string      `json:"warehouse_no,omitempty"`
	Reason      *reasonJSON `json:"reason,omitempty"`
}

func (c cancelCmd[N]) Run(ctx context.Context, a *app) error {
	r := rowFor[N]()
	registry, _, err := a.sellerNamed(ctx, c.Seller)
	if err != nil {
		return err
	}
	registry.Close()
	b, err := a.bus(ctx)
	if err != nil {
		return err
	}
	began := a.now()
	m := &documentv1.CancelRequested{
		Seller: c.Seller, No: c.No, RequestId: c.RequestID, RequestedAt: timestamppb.New(began),
		Cause: documentv1.CancelRequested_Cause(documentv1.CancelRequested_Cause_value["CAUSE_"+strings.ToUpper(c.Cause)]),
	}
	q := bus.EventQuery{Seller: c.Seller, Names: []string{r.Topics.Cancelled.Name, r.Topics.CancelRefused.Name, r.Topics.CancelUnknown.Name}}
	if c.RequestID == "" {
		m.RequestId = "bridgectl-" + rand.Text()
		q.Since = began.Add(-clocksDiffer)
	}
	text, err := protojson.Marshal(m)
	if err != nil {
		return err
	}
	if _, found := readDocument(r.cancelRequested, text); len(found) > 0 {
		return usageError{errors.Join(found...)}
	}
	a.note("%s cancel: %s: the warehouse is asked to cancel it", r.Name, r.name(c.Seller, c.No))
	if err := a.consent(c.Yes, "nothing was published"); err != nil {
		return err
	}
	if err := a.do(ctx, deed{verb: r.Name + " cancel", seller: c.Seller, target: c.No + " " + m.RequestId, why: c.Why}, func() (int, error) {
		return 1, b.Publish(ctx, r.cancelRequested.About(c.Seller, c.No, began, m, m.RequestId))
	}); err != nil {
		return err
	}
	doc := cancelJSON{Kind: r.Name, Seller: c.Seller, No: c.No, RequestID: m.RequestId, Answer: "waiting"}
	for until := began.Add(c.Wait); c.Wait > 0; {
		if err := b.Events(ctx, q, doc.answer); err != nil {
			return hint(err, "the request is published; its answer: --request-id %s", m.RequestId)
		}
		if doc.Answer != "waiting" || !a.now().Before(until) {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(answerPause):
		}
	}
	if err := a.show(doc, func(w io.Writer) error {
		line := r.name(c.Seller, c.No) + ": " + doc.Answer
		if doc.Reason != nil {
			line += ": " + a.say(fault.Reason(*doc.Reason))
		}
		if doc.WarehouseNo != "" {
			line += " (" + doc.WarehouseNo + ")"
		}
		_, err := fmt.Fprintln(w, clean(line))
		return err
	}); err != nil {
		return err
	}
	if doc.Answer == "cancelled" || doc.Answer == "waiting" && c.Wait == 0 {
		return nil
	}
	if doc.Answer == "waiting" {
		a.note("later: bridgectl %s cancel %s %s --request-id %s", r.Name, c.Seller, c.No, m.RequestId)
	}
	return errWrong
}

// answer takes the answer to the request from an event. A later one counts: an unknown may be followed by the final one.
func (doc *cancelJSON) answer(s bus.Stored) error {
	m, err := bus.DecodeFact(s)
	if err != nil {
		return nil // not an answer that anybody could read
	}
	about, ok := m.(interface {
		proto.Message
		GetRef() *documentv1.Ref
		GetRequestId() string
	})
	if !ok || about.GetRef().GetNo() != doc.No || about.GetRef().GetSeller() != doc.Seller {
		return nil
	}
	// A cancellation counts, also when another request led to it.
	if _, cancelled := m.(*documentv1.Cancelled); !cancelled && about.GetRequestId() != doc.RequestID {
		return nil
	}
	doc.WarehouseNo, doc.Reason = about.GetRef().GetWarehouseNo(), nil
	switch m := m.(type) {
	case *documentv1.Cancelled:
		doc.Answer = "cancelled"
	case *documentv1.CancelRefused:
		doc.Answer, doc.Reason = "refused", reasonOfEvent(m.Reason)
	case *documentv1.CancelUnknown:
		doc.Answer, doc.Reason = "unknown", reasonOfEvent(m.Reason)
	}
	return nil
}

func reasonOfEvent(r *documentv1.Reason) *reasonJSON {
	reason := reasonJSON(reasonOf(r))
	return &reason
}
