// Package push sends the documents of a kind to the warehouses that carry them out, once, whatever fails on the way, and
// cancels them on request.
//
// It follows the ledger's protocol (package ledger) and does the steps that package document decides on: claim → look up,
// unless never sent → send → record → publish. It knows neither JetStream nor Redis, no adapter and no kind. The bus
// publishes the returned events before it acks the message.
//
// # Why
//
// For a document that is held or failed, Push returns events together with an error: the ERP gets the event and the
// operator finds the dead letter, in one step.
//
// The payload's hash covers what reaches the warehouse, after cleaning, and not how the ERP wrote it. An ERP that publishes
// the same document with another spelling (128.0 and 128.00, lines in another order, one more blank) repeats it and does
// not change it. The hash is over the ERP's document and not over the warehouse's request, because the request contains
// the set-up: fixing a mapping would make each redelivery of a document that was sent before look like another one under
// its number.
//
// A message that is refused while a document is live under its number is published as held for a person and never as
// failed, whatever is wrong with it: programs that read failures by number would take the live document for failed.
package push

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/guard"
	"stockbridge/pkg/kind"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
)

const (
	// lookupsBeforeResend is how many look-ups must find nothing, spread over Config.ResendAfter, before a document whose
	// answer was lost is sent again.
	lookupsBeforeResend = 3
	// lookupsBeforeRefuse is how many look-ups must find nothing, after the immediate one, before a rejection is final.
	lookupsBeforeRefuse = 2
	// firstRejectedLookup is the part of Config.RefuseAfter (1/n) that passes before the first of them.
	firstRejectedLookup = 12
	// firstLookup is the pause between a lost answer and the first look-up.
	firstLookup = time.Second
	// busyPause is the pause before a document is tried again that another worker has claimed.
	busyPause = 2 * time.Second
	// callLimit must stay at or above the adapter's limit for one call, and below the handler's.
	callLimit = 10 * time.Second
	// WriteLimit is the limit of the one ledger write that ends a run; handler limit + WriteLimit must stay below AckWait.
	WriteLimit = 4 * time.Second
	// FindPermission is the permission to look up documents by our numbers.
	FindPermission = "find-orders"
	// movedMargin is how long after a change of the account a worker may still have sent under the earlier one.
	movedMargin = time.Minute
)

// Config is the settings of a service that pushes.
type Config struct {
	// Slots is how many documents are handled at the same time, bus.SeatsOf(Slots) of one seller; see bus.Serving.
	Slots int `env:"PUSH_SLOTS" envDefault:"32" help:"orders handled at the same time"`
	// MaxAttempts is how often a document that fails without a reason to wait is tried before it becomes a dead letter.
	MaxAttempts int `env:"PUSH_MAX_ATTEMPTS" envDefault:"12" help:"failed attempts before an order becomes a dead letter"`
	// ResendAfter is how long a document whose answer was lost is looked up before it is sent again under the same number.
	ResendAfter time.Duration `env:"PUSH_RESEND_AFTER" envDefault:"5m" help:"how long an order whose answer was lost is looked up before it is sent again"`
	// RefuseAfter is how long a document that the warehouse rejected in business words is looked up before it is published
	// as failed: at once, after a twelfth of it, and after all of it. Warehouses were seen to reject an order and to show its
	// document seconds later, and the ERP refunds what failed. Nobody waits for a failure as for a success, so a minute costs
	// little. 0 publishes it after the immediate look-up.
	RefuseAfter time.Duration `env:"PUSH_REFUSE_AFTER" envDefault:"1m" help:"how long an order that the warehouse rejected in business words is looked up before it is published as failed"`
	// SettleFor is how long after the start of the ledger's epoch a send that it does not know of may still take effect.
	SettleFor time.Duration `env:"PUSH_SETTLE_FOR" envDefault:"30s" help:"how long a send lost with an older ledger may still arrive"`
	// BreakerAfter is the number of failed calls in a row that pauses a seller.
	BreakerAfter int `env:"PUSH_BREAKER_AFTER" envDefault:"5" help:"failed calls in a row that pause a seller"`
	// ProbeAfter is how long a paused seller rests before it is tried again.
	ProbeAfter time.Duration `env:"PUSH_PROBE_AFTER" envDefault:"30s" help:"rest of a seller paused by failures before it is tried again"`
	// ReleasePerSecond limits how fast held documents are released when their cause is gone.
	ReleasePerSecond float64 `env:"PUSH_RELEASE_PER_SECOND" envDefault:"100" help:"held orders released a second"`
	// KeepDeadLetters is how long a dead letter is kept, because it may contain a receiver's data. A held document that waits
	// so long becomes a dead letter. It equals the retention of the public streams; 0 keeps for ever.
	KeepDeadLetters time.Duration `env:"PUSH_KEEP_SHELVED" envDefault:"2160h" help:"how long dead letters are kept, and held orders wait before they become one; 0 is for ever"`
}

// Sellers is what a Pusher needs of the sellers' set-up.
type Sellers interface {
	Get(name string) (*seller.Seller, bool)
	Pause(ctx context.Context, name string, p seller.Pause) error
}

// Parts is what a Pusher is made of. All are required but Ours, Admit, FreeItem, External, ItemField, Notes, Now and
// NewOwner.
type Parts[M, D proto.Message] struct {
	Kind    kind.Kind[M, D]
	Sellers Sellers
	Ledger  ledger.Documents
	// Open returns a seller's warehouse by the ERP's code, for calls of the class.
	Open func(s *seller.Seller, code string, class quota.Class) (warehouse.Identified, error)
	// Release releases the matching held documents of a seller. Releases does it for several kinds; one of the two is set.
	Release  func(ctx context.Context, sellerName string, match func(bus.DeadLetter) bool) (int, error)
	Releases *guard.Releases
	Breaker  *guard.Breaker
	Metrics  *Metrics
	Config
	// CancelDeadline is how long a request to cancel may go without an answer before that is published.
	CancelDeadline time.Duration
	// Ours finds out, before anything else, whether the document is ours to send; nil takes all.
	Ours func(s *seller.Seller, f kind.Facts, d *bus.Delivery) error
	// Admit decides last whether the document may be sent now; nil admits all.
	Admit func(ctx context.Context, s *seller.Seller, f kind.Facts, released []string) error
	// FreeItem frees the item that the document under number by holds, if that never will be sent; nil frees none.
	FreeItem func(ctx context.Context, r Run[D], by string) (freed bool, err error)
	// External is the fault of a document that another program should have sent; required where there are such.
	External func(f kind.Facts) error
	// ItemField is where an item stands in the document; nil where there are no items.
	ItemField func(m M, item string) string
	// Notes says what deserves attention about the documents that share a platform's number; nil for nothing.
	Notes func(m M, with ledger.Sharing) fault.Reason
	// Now is the clock, time.Now when nil.
	Now func() time.Time
	// NewOwner makes the token of one run's claim, a random one when nil.
	NewOwner func() string
}

// Run is what FreeItem may use of the run of a document.
type Run[D proto.Message] struct {
	Seller   *seller.Seller
	Facts    kind.Facts
	Released []string
	// Find looks a document up in the warehouse with the ERP's code. It returns all that are under the number.
	Find func(ctx context.Context, code, no string) ([]warehouse.Document[D], error)
}

// Pusher is the handlers of one kind.
type Pusher[M, D proto.Message] struct {
	Parts[M, D]
	*guard.Releases
	finder   *finder[D]
	notFound notFoundCache
}

// New makes a Pusher.
func New[M, D proto.Message](parts Parts[M, D]) *Pusher[M, D] {
	if parts.Now == nil {
		parts.Now = time.Now
	}
	if parts.NewOwner == nil {
		parts.NewOwner = uuid.NewString
	}
	p := &Pusher[M, D]{Parts: parts, finder: newFinder[D](parts.Kind.Name)}
	p.Releases = parts.Releases
	if p.Releases == nil {
		p.Releases = &guard.Releases{
			Find: parts.Sellers.Get, Gone: p.Gone, Apart: []string{FindPermission}, Clock: parts.Now,
			Replay: func(ctx context.Context, name string, match func(bus.DeadLetter) bool) (int, error) {
				return p.Release(ctx, name, match)
			},
		}
	}
	return p
}

// LookUp returns the documents of a seller that wh has under the number, and the events about the seller that follow from
// the call. Look-ups that arrive during a call share the next one.
func (p *Pusher[M, D]) LookUp(ctx context.Context, sellerName string, wh warehouse.Finder[D], no string) ([]warehouse.Document[D], []event.Event, error) {
	docs, first, err := p.finder.Find(ctx, wh, no)
	if !first { // a failed call is one failure, however many documents shared it
		return docs, nil, err
	}
	if err == nil {
		p.Served(seller.CausePermission(sellerName, FindPermission))
	}
	return docs, p.feedBreaker(sellerName, err), err
}

// Waiting is how many look-ups wait for wh to end its present call.
func (p *Pusher[M, D]) Waiting(wh warehouse.Finder[D]) int {
	_, waiting := p.finder.calls.Load(wh)
	return waiting
}

// Push sends one audited document and returns its outcome: accepted, held or failed. The outcome of a known document is
// returned again, which repairs a crash between recording and publishing.
func (p *Pusher[M, D]) Push(ctx context.Context, d *bus.Delivery, m M) ([]event.Event, error) {
	cleaned := p.Kind.Clean(m)
	r := &run[M, D]{Pusher: p, d: d, m: cleaned, original: m, facts: p.Kind.Facts(cleaned), span: trace.SpanFromContext(ctx)}
	err := r.push(ctx)
	if err != nil {
		err = fmt.Errorf("push %s/%s: %w", r.facts.Seller, p.Kind.CauseNo(r.facts.No), err)
	}
	if err != nil && len(r.events) == 0 {
		r.events = p.OnReject(d, m, err)
	}
	return append(r.events, r.sellerEvents...), err
}

// OnReject returns the event of a document that is held or becomes a dead letter. It returns none for one that will be
// tried again, or when its number cannot be read.
func (p *Pusher[M, D]) OnReject(d *bus.Delivery, m M, err error) []event.Event {
	if !m.ProtoReflect().IsValid() {
		return nil
	}
	f := p.Kind.Facts(p.Kind.Clean(m))
	if f.No == "" || !event.ValidSeller(f.Seller) && !event.ValidSeller(d.Seller) {
		return nil
	}
	if event.ValidSeller(d.Seller) {
		// The publisher may not change the state of another seller's numbers, but must get the refusal.
		f.Seller = d.Seller
	}
	reason := fault.ReasonOf(err, "internal")
	if reason.Code == "malformed" && !plainNumber(f.No) {
		return nil // its fields may contain anything
	}
	now := p.Now()
	class, cause := fault.Of(err), fault.Cause(err)
	if errors.Is(err, bus.ErrAttempts) {
		// It may have been sent, and an ERP could refund a failed document that ships.
		class, cause = fault.Held, seller.CauseOperator(f.Seller, p.Kind.CauseNo(f.No))
	}
	switch class {
	case fault.Held:
		return []event.Event{p.Kind.HeldEvent(p.Kind.NewRef(f, ""), now, cause, reason)}
	case fault.Refused:
		if events := p.heldIfLive(f, now, reason); events != nil {
			return events
		}
		return []event.Event{p.Kind.FailedEvent(p.Kind.NewRef(f, ""), now, reason)}
	default:
		return nil
	}
}

// plainNumber reports whether text follows the rule of the ERP's numbers.
func plainNumber(text string) bool {
	for _, c := range []byte(text) {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && c != '_' && c != '-' {
			return false
		}
	}
	return text != "" && len(text) <= 100
}

// heldIfLive returns an event that holds the document in place of one that fails it, when one is, or may be, live under
// the number: an ERP could refund a failed document that ships. It returns nil when none is live. When the ledger cannot
// be read, one may be.
func (p *Pusher[M, D]) heldIfLive(f kind.Facts, now time.Time, reason fault.Reason) []event.Event {
	ctx, cancel := context.WithTimeout(context.Background(), WriteLimit)
	defer cancel()
	entry, err := p.Ledger.Get(ctx, p.Kind.Key(f.Seller, f.No))
	switch {
	case errors.Is(err, ledger.ErrNoEntry), err == nil && !entry.State.Live():
		return nil
	case err != nil:
		reason.ZH += "；此单号下可能已有有效单据，请核对"
		reason.EN += "; a document may be live under this number: check"
	default:
		zh, en := p.Kind.LiveText(entry)
		reason.ZH += "；" + zh
		reason.EN += "; " + en
	}
	cause := seller.CauseOperator(f.Seller, p.Kind.CauseNo(f.No))
	return []event.Event{p.Kind.HeldEvent(p.Kind.NewRef(f, entry.Number), now, cause, reason, reason.Code)}
}

// Gone reports whether a cause is gone that no set-up can clear; decided is false when it is not the kind's to say.
func (p *Pusher[M, D]) Gone(ctx context.Context, cause string) (gone, decided bool) {
	what, about, _ := strings.Cut(cause, ":")
	switch what {
	case "cancel", "identity", "receiver", "unresolved":
	default:
		return false, false
	}
	name, no, ok := p.Kind.OfCause(about)
	if !ok {
		return false, false
	}
	entry, err := p.Ledger.Get(ctx, p.Kind.Key(name, no))
	switch what {
	case "cancel":
		return errors.Is(err, ledger.ErrNoEntry) || err == nil && !entry.State.Live(), true
	case "identity":
		if err != nil || !entry.State.Live() {
			return err == nil || errors.Is(err, ledger.ErrNoEntry), true
		}
		s, ok := p.Sellers.Get(name)
		return ok && (entry.Identity == "" || entry.Identity == s.IdentityOf(entry.Warehouse)), true
	case "receiver":
		// A masked one is never claimed: the ERP has published the document again, readable, under the same number.
		return err == nil && entry.State != ledger.New, true
	default: // a person entered the warehouse's number, or it ended otherwise
		return err == nil && (entry.State == ledger.Accepted || entry.State == ledger.Cancelled || entry.State == ledger.Refused), true
	}
}

// expireEvery is the interval at which old dead letters are searched for.
const expireEvery = time.Hour

// ExpireDeadLetters erases a consumer's dead letters, and turns held documents into dead letters, after KeepDeadLetters,
// until ctx is done. The next round, or another replica, repeats what fails.
func ExpireDeadLetters(ctx context.Context, b *bus.Bus, consumer string, keep time.Duration, now func() time.Time, m *Metrics, log zerolog.Logger) {
	for keep > 0 {
		erased, ended, err := b.Age(ctx, consumer, now(), keep, kind.HeldTooLong)
		m.Expired.WithLabelValues(event.Dead).Add(float64(erased))
		m.Expired.WithLabelValues(event.Held).Add(float64(ended))
		if erased+ended > 0 {
			log.Warn().Int("erased", erased).Int("ended", ended).Dur("keep", keep).Msg("erased old dead letters, or turned old held documents into dead letters")
		}
		if err != nil && ctx.Err() == nil {
			log.Warn().Err(err).Msg("old dead letters could not be searched for")
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(expireEvery):
		}
	}
}
