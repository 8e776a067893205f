package ctl

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	opsv1 "stockbridge/proto/ops/v1"
)

const (
	// recordLimit bounds the recording of an act that ended.
	recordLimit = 10 * time.Second
	// maxActText bounds each text of an act, in bytes.
	maxActText = 1000
)

// deed describes what an operator is about to do.
type deed struct {
	// verb is the command: "seller pause".
	verb string
	// seller that is affected; empty for several or none.
	seller string
	// target of the act, without personal data.
	target string
	why    string
}

// because is the --why flag of commands that change something.
type because struct {
	Why string `placeholder:"TEXT" help:"Why, recorded with what is done."`
}

// acting is an act that was recorded as asked for and must be recorded as ended.
type acting struct {
	a     *app
	b     *bus.Bus
	first *opsv1.Act
	// part is the current part; first is set while the act has only one part.
	part *opsv1.Act
}

// act records an act before it is done: after a crash the record shows that it was asked for and did not end. An act
// that cannot be recorded is not done. total is how many messages it is about; items are those messages, unless they
// come in parts.
func (a *app) act(ctx context.Context, d deed, total int, items []*opsv1.Item) (*acting, error) {
	b, err := a.bus(ctx)
	if err != nil {
		return nil, err
	}
	x := &acting{a: a, b: b, first: &opsv1.Act{
		Id: rand.Text(), Part: 1, Stage: opsv1.Act_STAGE_ASKED, At: timestamppb.New(a.now()), Who: actText(a.Who), Why: actText(d.why), Verb: d.verb,
		Seller: sellerOf(d.seller, items), Target: actText(d.target), Items: items, Count: int64(total),
	}}
	x.part = x.first
	return x, x.record(ctx, x.first)
}

// next records the next part of the act, which is about these messages.
func (x *acting) next(ctx context.Context, items []*opsv1.Item) error {
	m := proto.CloneOf(x.first)
	m.Part, m.At, m.Items, m.Count, m.Seller = x.part.Part+1, timestamppb.New(x.a.now()), items, int64(len(items)), sellerOf("", items)
	x.part = m
	return x.record(ctx, m)
}

func (x *acting) record(ctx context.Context, m *opsv1.Act) error {
	if err := x.b.Act(ctx, m); err != nil {
		return hint(err, "nothing is done that cannot be recorded: is the stream ACTS there? `bridgectl topology apply`")
	}
	return nil
}

// sellerOf returns the seller, or the one that all items share.
func sellerOf(seller string, items []*opsv1.Item) string {
	for i, item := range items {
		if i > 0 && item.Seller != seller {
			return ""
		}
		seller = item.Seller
	}
	if !event.ValidSeller(seller) {
		return ""
	}
	return seller
}

// endPart records how the current part ended, end how the act ended; both also after ctx has ended. done is how many
// items were done, gone lists the messages that no longer existed.
func (x *acting) endPart(ctx context.Context, done int, gone []uint64, why error) {
	x.ended(ctx, x.part, done, len(gone), gone, why)
}

func (x *acting) end(ctx context.Context, done, gone int, why error) {
	x.ended(ctx, x.first, done, gone, nil, why)
}

func (x *acting) ended(ctx context.Context, of *opsv1.Act, done, gone int, nos []uint64, why error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordLimit)
	defer cancel()
	m := proto.CloneOf(of)
	m.Stage, m.At, m.Items, m.Count, m.Gone, m.GoneNos = opsv1.Act_STAGE_DONE, timestamppb.New(x.a.now()), nil, int64(done), int64(gone), nos
	if why != nil {
		m.Stage, m.Error = opsv1.Act_STAGE_FAILED, actText(why.Error())
	}
	if err := x.b.Act(ctx, m); err != nil {
		x.a.note("the start of this act is recorded, but not its end: %v", err)
	}
}

// do records an act around f, which returns how many things it did.
func (a *app) do(ctx context.Context, d deed, f func() (done int, err error)) error {
	x, err := a.act(ctx, d, 0, nil)
	if err != nil {
		return err
	}
	n, err := f()
	x.end(ctx, n, 0, err)
	return err
}

// did records an act that is already done: one that only reads, or that cannot be recorded before.
func (a *app) did(ctx context.Context, d deed, items ...*opsv1.Item) error {
	b, err := a.bus(ctx)
	if err != nil {
		return err
	}
	m := &opsv1.Act{
		Id: rand.Text(), Part: 1, Stage: opsv1.Act_STAGE_DONE, At: timestamppb.New(a.now()), Who: actText(a.Who), Why: actText(d.why), Verb: d.verb,
		Seller: sellerOf(d.seller, items), Target: actText(d.target), Items: items, Count: 1,
	}
	return b.Act(ctx, m)
}

// revealed records that personal data is about to be shown, and prints that. Without the record nothing is shown.
func (a *app) revealed(ctx context.Context, d deed, items ...*opsv1.Item) error {
	if err := a.did(ctx, d, items...); err != nil {
		return hint(fmt.Errorf("nothing is revealed that cannot be recorded: %w", err), "is the stream ACTS there? `bridgectl topology apply`")
	}
	a.note("revealed to %s: %s (recorded: bridgectl acts ls)", a.Who, d.target)
	return nil
}

// itemOf is a message in the form in which acts name it.
func itemOf(m bus.DeadLetter) *opsv1.Item {
	return &opsv1.Item{
		No: m.Seq, Kind: m.Kind, Consumer: m.Consumer, Seller: actText(m.Seller), Key: actText(m.Key), Stream: m.Stream, Seq: m.OriginSeq,
		Code: actText(m.Reason.Code), Cause: actText(m.Cause), Attempts: int32(min(m.Attempts, 1<<30)), Since: timestamppb.New(m.Last),
	}
}

// actText shortens and cleans a text for a record.
func actText(s string) string {
	s = strings.ToValidUTF8(s, "�")
	if len(s) > maxActText {
		s = strings.ToValidUTF8(s[:maxActText], "") + "…"
	}
	return s
}
