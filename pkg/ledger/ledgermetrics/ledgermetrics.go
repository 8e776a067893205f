// Package ledgermetrics measures a ledger: how long its calls take and which fail, as metrics and as spans. It
// changes nothing that a ledger does, and knows no implementation.
//
// # Why
//
// It wraps the contract instead of the Redis client. What a worker waits for is its own call; a round trip of Redis
// carries many orders' calls at once and belongs to none of their traces (so no redisotel).
package ledgermetrics

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	oteltrace "go.opentelemetry.io/otel/trace"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/trace"
)

// Ledger is a measured ledger. Calls that only people make are passed through unmeasured.
type Ledger struct {
	ledger.Ledger
	seconds *prometheus.HistogramVec
	failed  *prometheus.CounterVec
}

var _ ledger.Ledger = (*Ledger)(nil)

// New measures l.
func New(l ledger.Ledger, r prometheus.Registerer) *Ledger {
	w := &Ledger{
		Ledger: l,
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "stockbridge_ledger_call_seconds", Help: "Calls to the ledger.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .05, .2, 1, 4},
		}, []string{"call"}),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockbridge_ledger_errors_total", Help: "Calls to the ledger that got no answer.",
		}, []string{"call"}),
	}
	r.MustRegister(w.seconds, w.failed)
	return w
}

// call measures one call. A ledger's regular errors (busy, lost …) count as answers.
func (w *Ledger) call(ctx context.Context, name string, do func(ctx context.Context) error) error {
	span := oteltrace.SpanFromContext(ctx)
	if span.IsRecording() { // building the name allocates
		ctx, span = trace.Start(ctx, oteltrace.SpanKindClient, "ledger "+name)
		defer span.End()
	}
	start := time.Now()
	err := do(ctx)
	w.seconds.WithLabelValues(name).Observe(time.Since(start).Seconds())
	if err != nil && !isAnswer(err) {
		w.failed.WithLabelValues(name).Inc()
		trace.Fail(span, fault.Of(err).String(), "")
	}
	return err
}

func isAnswer(err error) bool {
	for _, known := range []error{ledger.ErrBusy, ledger.ErrHash, ledger.ErrIdentity, ledger.ErrLost, ledger.ErrNoEntry, ledger.ErrVersion, context.Canceled} {
		if errors.Is(err, known) {
			return true
		}
	}
	var taken *ledger.ItemTaken
	return errors.As(err, &taken)
}

// Claim implements ledger.Documents.
func (w *Ledger) Claim(ctx context.Context, b ledger.ClaimRequest) (claimed ledger.Claimed, err error) {
	err = w.call(ctx, "begin", func(ctx context.Context) error { claimed, err = w.Ledger.Claim(ctx, b); return err })
	return claimed, err
}

// Accept implements ledger.Documents.
func (w *Ledger) Accept(ctx context.Context, b ledger.ClaimRequest, number string, cleaned []ledger.Cleaned, now time.Time) error {
	return w.call(ctx, "accept", func(ctx context.Context) error { return w.Ledger.Accept(ctx, b, number, cleaned, now) })
}

// Refuse implements ledger.Documents.
func (w *Ledger) Refuse(ctx context.Context, c ledger.Claim, why fault.Reason) error {
	return w.call(ctx, "refuse", func(ctx context.Context) error { return w.Ledger.Refuse(ctx, c, why) })
}

// MarkUnknown implements ledger.Documents.
func (w *Ledger) MarkUnknown(ctx context.Context, c ledger.Claim, why string) error {
	return w.call(ctx, "doubt", func(ctx context.Context) error { return w.Ledger.MarkUnknown(ctx, c, why) })
}

// MarkRejected implements ledger.Documents.
func (w *Ledger) MarkRejected(ctx context.Context, c ledger.Claim, why fault.Reason) error {
	return w.call(ctx, "deny", func(ctx context.Context) error { return w.Ledger.MarkRejected(ctx, c, why) })
}

// MarkNotFound implements ledger.Documents.
func (w *Ledger) MarkNotFound(ctx context.Context, c ledger.Claim) (lookups int, unknownFor time.Duration, err error) {
	err = w.call(ctx, "absent", func(ctx context.Context) error { lookups, unknownFor, err = w.Ledger.MarkNotFound(ctx, c); return err })
	return lookups, unknownFor, err
}

// Release implements ledger.Documents.
func (w *Ledger) Release(ctx context.Context, c ledger.Claim, why string) error {
	return w.call(ctx, "release", func(ctx context.Context) error { return w.Ledger.Release(ctx, c, why) })
}

// Resend implements ledger.Documents.
func (w *Ledger) Resend(ctx context.Context, c ledger.Claim) error {
	return w.call(ctx, "resend", func(ctx context.Context) error { return w.Ledger.Resend(ctx, c) })
}

// BeginEpoch implements ledger.Documents.
func (w *Ledger) BeginEpoch(ctx context.Context, seller string) error {
	return w.call(ctx, "begin_epoch", func(ctx context.Context) error { return w.Ledger.BeginEpoch(ctx, seller) })
}

// WantCancel implements ledger.Documents.
func (w *Ledger) WantCancel(ctx context.Context, k ledger.Key, c ledger.Cancel) (e ledger.Entry, err error) {
	err = w.call(ctx, "want_cancel", func(ctx context.Context) error { e, err = w.Ledger.WantCancel(ctx, k, c); return err })
	return e, err
}

// EndCancel implements ledger.Documents.
func (w *Ledger) EndCancel(ctx context.Context, k ledger.Key, requestID string, state ledger.State) error {
	return w.call(ctx, "end_cancel", func(ctx context.Context) error { return w.Ledger.EndCancel(ctx, k, requestID, state) })
}

// Get implements ledger.Documents.
func (w *Ledger) Get(ctx context.Context, k ledger.Key) (e ledger.Entry, err error) {
	err = w.call(ctx, "get", func(ctx context.Context) error { e, err = w.Ledger.Get(ctx, k); return err })
	return e, err
}

// Due implements ledger.Documents.
func (w *Ledger) Due(ctx context.Context, seller, kind string, now time.Time, limit int) (due []ledger.Entry, err error) {
	err = w.call(ctx, "due", func(ctx context.Context) error { due, err = w.Ledger.Due(ctx, seller, kind, now, limit); return err })
	return due, err
}

// TakeDue implements ledger.Documents.
func (w *Ledger) TakeDue(ctx context.Context, t ledger.Take) (taken []ledger.Entry, err error) {
	err = w.call(ctx, "take_due", func(ctx context.Context) error { taken, err = w.Ledger.TakeDue(ctx, t); return err })
	return taken, err
}

// Postpone implements ledger.Documents.
func (w *Ledger) Postpone(ctx context.Context, seller, kind string, until time.Time, later []ledger.Later) error {
	return w.call(ctx, "postpone", func(ctx context.Context) error { return w.Ledger.Postpone(ctx, seller, kind, until, later) })
}

// Follow implements ledger.Documents.
func (w *Ledger) Follow(ctx context.Context, e ledger.Entry, state ledger.State, f ledger.Following) error {
	return w.call(ctx, "follow", func(ctx context.Context) error { return w.Ledger.Follow(ctx, e, state, f) })
}

// DueSellers implements ledger.DueSellers.
func (w *Ledger) DueSellers(ctx context.Context, kinds []string, now time.Time, again time.Duration, limit int) (names []string, more bool, err error) {
	err = w.call(ctx, "due_sellers", func(ctx context.Context) error {
		names, more, err = w.Ledger.DueSellers(ctx, kinds, now, again, limit)
		return err
	})
	return names, more, err
}

// Count implements ledger.Attempts.
func (w *Ledger) Count(ctx context.Context, key string) (n int, err error) {
	err = w.call(ctx, "count", func(ctx context.Context) error { n, err = w.Ledger.Count(ctx, key); return err })
	return n, err
}

// Acquire implements ledger.Quota.
func (w *Ledger) Acquire(ctx context.Context, app string, class quota.Class, l ledger.Limit, ttl time.Duration) (p ledger.Permit, wait time.Duration, err error) {
	err = w.call(ctx, "acquire", func(ctx context.Context) error {
		p, wait, err = w.Ledger.Acquire(ctx, app, class, l, ttl)
		return err
	})
	return p, wait, err
}

// AcquireBlock implements ledger.Quota.
func (w *Ledger) AcquireBlock(ctx context.Context, app string, class quota.Class, l ledger.Limit, n int, ttl time.Duration) (turns []ledger.Turn, wait time.Duration, err error) {
	err = w.call(ctx, "acquire", func(ctx context.Context) error {
		turns, wait, err = w.Ledger.AcquireBlock(ctx, app, class, l, n, ttl)
		return err
	})
	return turns, wait, err
}

// Return implements ledger.Quota.
func (w *Ledger) Return(ctx context.Context, permits ...ledger.Permit) error {
	return w.call(ctx, "return", func(ctx context.Context) error { return w.Ledger.Return(ctx, permits...) })
}

// ReadBook implements ledger.Books.
func (w *Ledger) ReadBook(ctx context.Context, name string, fields, marks []string) (b ledger.Book, err error) {
	err = w.call(ctx, "read_book", func(ctx context.Context) error { b, err = w.Ledger.ReadBook(ctx, name, fields, marks); return err })
	return b, err
}

// WriteBook implements ledger.Books.
func (w *Ledger) WriteBook(ctx context.Context, name string, write ledger.BookWrite) (version uint64, err error) {
	err = w.call(ctx, "write_book", func(ctx context.Context) error { version, err = w.Ledger.WriteBook(ctx, name, write); return err })
	return version, err
}

// ScanBook implements ledger.Books.
func (w *Ledger) ScanBook(ctx context.Context, name, prefix, from string) (fields []ledger.Field, next string, err error) {
	err = w.call(ctx, "scan_book", func(ctx context.Context) error {
		fields, next, err = w.Ledger.ScanBook(ctx, name, prefix, from)
		return err
	})
	return fields, next, err
}

// DropBook implements ledger.Books.
func (w *Ledger) DropBook(ctx context.Context, name string) error {
	return w.call(ctx, "drop_book", func(ctx context.Context) error { return w.Ledger.DropBook(ctx, name) })
}
