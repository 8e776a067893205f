package follow

import (
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/kind"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	documentv1 "stockbridge/proto/document/v1"
)

// Kind is a kind of documents as it is followed, whatever its messages.
type Kind struct {
	kind.Terms
	open     func(warehouse.Identified) (channel, bool)
	progress func(e ledger.Entry, docs []part, s *seller.Seller, now time.Time) kind.Outcome
	unread   func(e ledger.Entry, found []document, s *seller.Seller) bool
	further  func(e ledger.Entry) []string
	phaseOf  func(documentv1.Status) ledger.Phase
	tooLate  func(documentv1.Status) bool
}

type (
	document = warehouse.Document[proto.Message]
	part     = kind.Part[proto.Message]
)

// channel is what is read of one kind at one warehouse. It has no way to write.
type channel struct {
	warehouse.Identified
	read func(ctx context.Context, numbers []string) (map[string]document, error)
	// find looks up by the ERP's numbers; nil where the warehouse cannot.
	find func(ctx context.Context, nos []string) (map[string][]document, error)
	// perCall is the most numbers of a call of find, or of read where there is no find.
	perCall int
}

// Of is a kind of the table as it is followed.
func Of[M, D proto.Message](k kind.Kind[M, D]) Kind {
	return Kind{
		Terms: k.Terms,
		open: func(wh warehouse.Identified) (channel, bool) {
			c, ok := k.Channel(wh)
			if !ok {
				return channel{}, false
			}
			return channelOf(warehouse.ReadOnly(c)), true
		},
		progress: func(e ledger.Entry, docs []part, s *seller.Seller, now time.Time) kind.Outcome {
			typed := make([]kind.Part[D], len(docs))
			for i, d := range docs {
				typed[i] = kind.Part[D]{Document: typedOf[D](d.Document), SplitOf: d.SplitOf, Missing: d.Missing}
			}
			return k.Progress(e, typed, s, now)
		},
		unread: func(e ledger.Entry, found []document, s *seller.Seller) bool {
			typed := make([]warehouse.Document[D], len(found))
			for i, d := range found {
				typed[i] = typedOf[D](d)
			}
			return k.Unread(e, typed, s)
		},
		further: k.Further,
		phaseOf: k.PhaseOf,
		tooLate: k.TooLate,
	}
}

func channelOf[D proto.Message](r warehouse.Reader[D]) channel {
	c := channel{
		Identified: r, perCall: r.ReadLimit(),
		read: func(ctx context.Context, numbers []string) (map[string]document, error) {
			docs, err := r.Read(ctx, numbers)
			if err != nil {
				return nil, err
			}
			all := make(map[string]document, len(docs))
			for number, d := range docs {
				all[number] = untyped(d)
			}
			return all, nil
		},
	}
	if f, ok := r.(warehouse.Finder[D]); ok {
		c.perCall = f.FindLimit()
		c.find = func(ctx context.Context, nos []string) (map[string][]document, error) {
			found, err := f.Find(ctx, nos)
			if err != nil {
				return nil, err
			}
			all := make(map[string][]document, len(found))
			for no, docs := range found {
				for _, d := range docs {
					all[no] = append(all[no], untyped(d))
				}
			}
			return all, nil
		}
	}
	return c
}

func untyped[D proto.Message](d warehouse.Document[D]) document {
	return document{Number: d.Number, No: d.No, State: d.State, History: d.History, Children: d.Children, Detail: d.Detail, Err: d.Err}
}

// typedOf is the reverse of untyped. A document that was never read has no detail.
func typedOf[D proto.Message](d document) warehouse.Document[D] {
	detail, _ := d.Detail.(D)
	return warehouse.Document[D]{Number: d.Number, No: d.No, State: d.State, History: d.History, Children: d.Children, Detail: detail, Err: d.Err}
}

// documents lists the numbers that belong to the entry: the accepted one first, then those that the warehouse returned and
// those known from earlier readings.
func (k Kind) documents(e ledger.Entry, found []document) []string {
	numbers := []string{e.Number}
	more := make([]string, 0, len(found))
	for _, d := range found {
		more = append(more, d.Number)
	}
	if k.further != nil {
		more = append(more, k.further(e)...)
	}
	for _, n := range more {
		if n != "" && !slices.Contains(numbers, n) {
			numbers = append(numbers, n)
		}
	}
	return numbers
}

// phase is how soon the document is looked up again.
func (k Kind) phase(e ledger.Entry) ledger.Phase {
	f := following(e)
	if f.Phase == "" && f.State != nil && k.phaseOf != nil {
		return k.phaseOf(kind.StateOf[kind.Seen](e).Status)
	}
	return f.Phase
}

// following is e's progress so far.
func following(e ledger.Entry) ledger.Following {
	if e.Following == nil {
		return ledger.Following{}
	}
	return *e.Following
}
