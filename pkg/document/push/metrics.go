package push

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"stockbridge/pkg/event"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/pullmetrics"
	"stockbridge/pkg/seller"
)

const (
	gaugeUnknown      = "stockbridge_push_unknown_orders"
	gaugeUnknownSince = "stockbridge_push_unknown_oldest_seconds"
	// sellersAtOnce limits the concurrent ledger reads of one scrape.
	sellersAtOnce = 8
)

// Metrics is what the pusher counts beyond what the bus counts of every consumer.
type Metrics struct {
	// Seconds is the time from the event's arrival on the stream to the warehouse's acceptance.
	Seconds prometheus.Histogram
	// Unknown counts sends whose answer was lost.
	Unknown prometheus.Counter
	// Duplicates counts outbound numbers with several documents at the warehouse. It must stay 0.
	Duplicates prometheus.Counter
	// Foreign counts documents found under an order's number that are another order's.
	Foreign prometheus.Counter
	// Expired counts dead letters erased for their age ("dlq"), and held orders that became dead letters ("held").
	Expired *prometheus.CounterVec
}

// NewMetrics registers them.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		Seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "stockbridge_push_seconds", Help: "From the audit's arrival on the stream to the warehouse's acceptance.",
			Buckets: []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800},
		}),
		Unknown: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stockbridge_push_unknown_total", Help: "Sends whose answer was lost.",
		}),
		Duplicates: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stockbridge_push_twice_total", Help: "Outbound numbers found with several documents at the warehouse.",
		}),
		Foreign: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stockbridge_push_foreign_total", Help: "Times that another order's document was found under an order's number, and not taken for its own.",
		}),
		Expired: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockbridge_push_aged_total", Help: "Dead letters erased because they were too old (dlq), and orders held so long that they became dead letters (held).",
		}, []string{"kind"}),
	}
	r.MustRegister(m.Seconds, m.Unknown, m.Duplicates, m.Foreign, m.Expired)
	for _, kind := range []string{event.Dead, event.Held} {
		m.Expired.WithLabelValues(kind) // shown as 0 from the start
	}
	return m
}

func (m *Metrics) accepted(after time.Duration) { m.Seconds.Observe(after.Seconds()) }

// Unknown shows of how many documents of the kinds the outcome is unknown now, and since when. Every replica shows the
// same.
func Unknown(kinds []string, sellers func() []*seller.Seller, l ledger.Documents, now func() time.Time) prometheus.Collector {
	bySeller := []string{"seller"}
	return pullmetrics.New("unknown", []pullmetrics.Gauge{
		{Name: gaugeUnknown, Help: "Orders whose answer was lost and which are being looked up now.", Labels: bySeller},
		{Name: gaugeUnknownSince, Help: "How long the oldest of them is unknown; 0 when there is none.", Labels: bySeller},
	}, func(ctx context.Context, observe pullmetrics.Observe) error {
		var group errgroup.Group
		group.SetLimit(sellersAtOnce)
		for _, s := range sellers() {
			group.Go(func() error {
				sum, age := 0, 0.0
				for _, k := range kinds {
					n, oldest, err := l.CountUnknown(ctx, s.Name(), k)
					if err != nil {
						return err
					}
					if sum += n; n > 0 {
						age = max(age, now().Sub(oldest).Seconds())
					}
				}
				observe(gaugeUnknown, float64(sum), s.Name())
				observe(gaugeUnknownSince, age, s.Name())
				return nil
			})
		}
		return group.Wait()
	})
}
