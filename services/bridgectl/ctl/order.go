package ctl

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	orderv1 "stockbridge/proto/order/v1"
)

type orderCmd struct {
	Push    orderPushCmd    `cmd:"" help:"Publish audited orders from a file."`
	Check   orderCheckCmd   `cmd:"" help:"Print what would be sent for orders and everything that is wrong with them; sends nothing."`
	Erase   orderEraseCmd   `cmd:"" help:"Erase a receiver's data from our copies of an order."`
	Explain orderExplainCmd `cmd:"" help:"Show all that is known of one order, in order of time."`
}

// orderKind is the kind of an order's ledger key.
const orderKind = "order"

// readOrder reads an order as the workers do and returns everything that is wrong with it. Nothing of the text is
// repeated. o is nil when it cannot be read.
func readOrder(text []byte) (o *orderv1.Audited, found []error) {
	o, readable, wrong, err := bus.Read(event.OrderAudited, nil, text)
	if err != nil {
		return o, []error{err}
	}
	for _, reason := range wrong {
		found = append(found, fault.Permanent(reason))
	}
	if !readable {
		return nil, found
	}
	return o, found
}

// unknownFields are the paths in text that kind does not have. They are tolerated, but may be misspelt.
func unknownFields(text []byte, kind protoreflect.MessageDescriptor) []string {
	var found []string
	var look func(path string, v any, s shape)
	look = func(path string, v any, s shape) {
		switch v := v.(type) {
		case []any:
			for i, item := range v {
				look(fmt.Sprintf("%s[%d]", path, i), item, s)
			}
		case map[string]any:
			if s.message == nil {
				return
			}
			for _, key := range slices.Sorted(maps.Keys(v)) {
				at := strings.TrimPrefix(path+"."+key, ".")
				if field := fieldOf(s.message, key); field != nil {
					look(at, v[key], shapeOf(s.message, key))
				} else {
					found = append(found, at)
				}
			}
		}
	}
	var v any
	if json.Unmarshal(text, &v) == nil {
		look("", v, shape{message: kind})
	}
	return found
}

type orderPushCmd struct {
	File string `name:"file" short:"f" required:"" type:"path" placeholder:"FILE" help:"One JSON order a line; - reads standard input."`
	From int    `default:"1" placeholder:"LINE" help:"Begin at this line."`
}

func (orderPushCmd) Help() string {
	return `Publishes order.audited for each order, in the file's order, and waits until each is stored. An order that is wrong in
itself is not published: its line and field are printed to stderr, the others are published, and the command ends 1.

After an interruption, run it again with the same file: each order has an id made from its numbers and its content. The broker
recognises a repeat for a moment, the ledger for as long as it remembers: nothing is sent to a warehouse twice. An order
that was changed is published again.`
}

func (c orderPushCmd) Run(ctx context.Context, a *app) error {
	file, err := a.open(c.File)
	if err != nil {
		return err
	}
	defer file.Close()
	b, err := a.bus(ctx)
	if err != nil {
		return err
	}
	var done struct {
		Published int `json:"published"`
		// Repeated were in the stream already.
		Repeated int        `json:"repeated"`
		Wrong    []lineJSON `json:"wrong"`
		// Next is the first line that was not read; 0 when all were.
		Next int `json:"next,omitempty"`
	}
	done.Wrong = []lineJSON{}
	said := a.now()
	for d, err := range documents(file) {
		if err != nil {
			return hint(err, "%d were published before; lines before it need not be pushed again", done.Published+done.Repeated)
		}
		if d.line < c.From {
			continue
		}
		stored, found, err := push(ctx, b, d)
		if err != nil {
			a.note("%d published, %d were there already, %d wrong", done.Published, done.Repeated, len(done.Wrong))
			return hint(fmt.Errorf("line %d: %w", d.line, err), "the same command continues where this one stopped; --from %d skips what is done", d.line)
		}
		switch {
		case len(found) > 0:
			l := lineJSON{Line: d.line}
			for _, err := range found {
				f := findingOf(err)
				l.Findings = append(l.Findings, f)
				a.note("line %d: %s", d.line, a.say(f.reason()))
			}
			done.Wrong = append(done.Wrong, l)
		case stored:
			done.Published++
		default:
			done.Repeated++
		}
		if now := a.now(); now.Sub(said) >= time.Second {
			said = now
			a.note("line %d: %d published", d.line, done.Published)
		}
	}
	if err := a.show(done, func(w io.Writer) error {
		fmt.Fprintf(w, "published %s", count(done.Published, "order"))
		if done.Repeated > 0 {
			fmt.Fprintf(w, "; %d were there already", done.Repeated)
		}
		if len(done.Wrong) > 0 {
			fmt.Fprintf(w, "; %d wrong and not published", len(done.Wrong))
		}
		_, err := fmt.Fprintln(w)
		return err
	}); err != nil {
		return err
	}
	if len(done.Wrong) > 0 {
		return errWrong
	}
	return nil
}

// lineJSON is a line of a file that was not published.
type lineJSON struct {
	Line     int       `json:"line"`
	Findings []finding `json:"findings"`
}

// push publishes one order unchanged, so that the ERP's own fields survive. stored is false when the stream has it
// already.
func push(ctx context.Context, b *bus.Bus, d document) (stored bool, found []error, err error) {
	o, found := readOrder(d.text)
	if len(found) > 0 {
		return false, found, nil
	}
	// The content is part of the id: an order that was corrected after it failed must not be taken for a repeat.
	sum := sha256.Sum256(d.text)
	e := event.OrderAudited.About(o.Seller, o.OutboundNo, o.AuditedAt.AsTime(), o, event.Revision(o.Revision), hex.EncodeToString(sum[:6]))
	stored, _, err = b.PublishRaw(ctx, e.Subject(), headerOf(e), d.text)
	return stored, nil, err
}

// headerOf returns the headers of an event: the attributes of CloudEvents' NATS binding, and the id by which the broker
// recognises a repeat.
func headerOf(e event.Event) map[string][]string {
	return map[string][]string{
		event.HeaderSpec: {"1.0"}, event.HeaderID: {e.ID}, event.HeaderType: {e.Name}, event.HeaderSource: {"bridgectl"},
		event.HeaderSubject: {e.Key}, event.HeaderTime: {e.At.UTC().Format(time.RFC3339Nano)},
		event.HeaderContentType: {"application/json"}, "Nats-Msg-Id": {e.ID},
	}
}

// finding is one fault of an order, or one change that was made to it.
type finding struct {
	// Outcome is what would become of the order: "held", "failed", or "note" when it is sent all the same.
	Outcome string `json:"outcome"`
	Cause   string `json:"cause,omitempty"`
	reasonJSON
}

func (f finding) reason() fault.Reason { return fault.Reason(f.reasonJSON) }

func findingOf(err error) finding {
	f := finding{Outcome: "failed", Cause: fault.Cause(err), reasonJSON: reasonJSON(fault.ReasonOf(err, "internal"))}
	if fault.Of(err) == fault.Held {
		f.Outcome = "held"
	}
	return f
}
