package ctl

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/kind"
	orders "stockbridge/pkg/kind/order"
	"stockbridge/pkg/kind/purchase"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/warehouse"
	documentv1 "stockbridge/proto/document/v1"
	"stockbridge/services/all"
)

// documentCmd is the commands of a kind of documents that has nothing beyond what kind.Kind says.
type documentCmd[N noun] struct {
	Push    pushCmd[N]    `cmd:"" help:"Publish audited documents from a file."`
	Cancel  cancelCmd[N]  `cmd:"" help:"Ask to cancel one, and wait for the answer."`
	Resolve resolveCmd[N] `cmd:"" help:"Say what is at the warehouse of one that may have been sent."`
	Explain explainCmd[N] `cmd:"" help:"Show all that is known of one, in order of time."`
}

// noun is the word that a kind's commands begin with, as a type: the grammar is made of types.
type noun interface{ row() *row }

type (
	ofOrders    struct{}
	ofPurchases struct{}
)

func (ofOrders) row() *row    { return rowOf(orders.Kind) }
func (ofPurchases) row() *row { return rowOf(purchase.Kind) }

// nouns are the kinds' words.
func nouns() []string { return []string{orders.Terms.Name, purchase.Terms.Name} }

func rowFor[N noun]() *row {
	var n N
	return n.row()
}

// row is a kind without its types.
type row struct {
	kind.Terms
	cancelRequested event.Topic[*documentv1.CancelRequested]
	// read reads an audited document as the workers do, and returns everything that is wrong with it.
	read func(text []byte) (m proto.Message, found []error)
	// audited is the event of a document that read returned. Its id is made from its numbers and from text.
	audited func(m proto.Message, text []byte) event.Event
	// claim is the claim of the document in a message that was held.
	claim func(m bus.DeadLetter) (ledger.ClaimRequest, error)
	// cleaned is what was changed in the texts of that document when it was sent to wh.
	cleaned func(wh warehouse.Identified, m bus.DeadLetter) ([]ledger.Cleaned, error)
	// look reads a document of a warehouse by its number there; takes is false when the warehouse takes none of the kind,
	// known when it does not know the number.
	look func(ctx context.Context, wh warehouse.Identified, number string) (d seen, takes bool, err error)
}

// seen is a document as the warehouse has it.
type seen struct {
	known bool
	// no is our number as the warehouse repeats it.
	no    string
	state warehouse.State
	// broken is why the document cannot be understood.
	broken error
}

func rowOf[M, D proto.Message](k kind.Kind[M, D]) *row {
	decode := func(m bus.DeadLetter) (M, error) {
		return bus.Decode(k.Audited, bus.Stored{Header: m.Header, Body: m.Body})
	}
	return &row{
		Terms: k.Terms, cancelRequested: k.CancelRequested,
		read: func(text []byte) (proto.Message, []error) {
			m, found := readDocument(k.Audited, text)
			if !m.ProtoReflect().IsValid() {
				return nil, found
			}
			return m, found
		},
		audited: func(m proto.Message, text []byte) event.Event {
			// The content is part of the id: a document that was corrected after it failed must not be taken for a repeat.
			sum := sha256.Sum256(text)
			f := k.Facts(m.(M))
			return k.Audited.About(f.Seller, f.No, f.AuditedAt, m.(M), event.Revision(f.Revision), hex.EncodeToString(sum[:6]))
		},
		claim: func(held bus.DeadLetter) (ledger.ClaimRequest, error) {
			m, err := decode(held)
			if err != nil {
				return ledger.ClaimRequest{}, err
			}
			cleaned := k.Clean(m)
			at := kind.Delivery{Stream: held.Stream, Seq: held.OriginSeq, StreamTime: held.First}
			return k.ClaimRequest(at, k.Facts(cleaned), k.Hash(cleaned), "bridgectl-"+rand.Text()), nil
		},
		cleaned: func(wh warehouse.Identified, held bus.DeadLetter) ([]ledger.Cleaned, error) {
			m, err := decode(held)
			channel, takes := k.Channel(wh)
			if err != nil || !takes {
				return nil, err
			}
			var list []ledger.Cleaned
			for _, c := range channel.Plan(m).Cleaned {
				list = append(list, ledger.Cleaned{Field: c.Field, What: c.What, ZH: c.Zh, EN: c.En})
			}
			return list, nil
		},
		look: func(ctx context.Context, wh warehouse.Identified, number string) (seen, bool, error) {
			channel, takes := k.Channel(wh)
			if !takes {
				return seen{}, false, nil
			}
			docs, err := warehouse.ReadOnly(channel).Read(ctx, []string{number})
			d, known := docs[number]
			return seen{known, d.No, d.State, d.Err}, true, err
		},
	}
}

// readDocument reads what an ERP publishes as the workers do and returns everything that is wrong with it. Nothing of the
// text is repeated. m is nil when it cannot be read.
func readDocument[M proto.Message](topic event.Topic[M], text []byte) (m M, found []error) {
	m, readable, wrong, err := bus.Read(topic, nil, text)
	if err != nil {
		return m, []error{err}
	}
	for _, reason := range wrong {
		found = append(found, fault.Permanent(reason))
	}
	if !readable {
		var none M
		return none, found
	}
	return m, found
}

// name is the document as an error names it.
func (r *row) name(seller, no string) string { return fmt.Sprintf("%s %s/%s", r.EN, seller, no) }

// owns reports whether the event of that name is about documents of the kind.
func (r *row) owns(event string) bool { return strings.HasPrefix(event, r.Name+".") }

// serves reports whether the consumer may be one of the kind's; one that only an earlier build had may be.
func (r *row) serves(consumer string) bool {
	for _, service := range all.Bus() {
		for _, c := range service.Consumers {
			if c.Name == consumer {
				return r.owns(c.Topic)
			}
		}
	}
	return true
}
