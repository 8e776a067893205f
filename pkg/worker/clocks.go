package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/clock"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/pullmetrics"
)

const (
	// MaxSkew is how far the clocks of a worker, its ledger and NATS may be apart. Whether an order is certainly new
	// depends on times of the broker and of the ledger, within ledger.EpochMargin.
	MaxSkew = ledger.EpochMargin
	// measureEvery is how often clocks are measured. A step of our own clock is noticed without that.
	measureEvery = time.Minute
	// measureTimeout is for one measurement.
	measureTimeout = 5 * time.Second
)

// Clocks are the clocks that a worker's own is compared with: the ledger's, by which services measure durations, and
// the broker's.
type Clocks struct {
	ledger, broker *clock.Clock
	log            zerolog.Logger
}

// newClocks measures the clocks of a ledger and a broker that both answer. own is the host's, nil for time.Now.
func newClocks(ctx context.Context, l ledger.Ledger, b *bus.Bus, own func() time.Time, log zerolog.Logger) (*Clocks, error) {
	c := &Clocks{ledger: clock.New(l.Clock, own), broker: b.Clock(), log: log}
	return c, retryWhileDown(ctx, log, "clocks", c.measure)
}

func (c *Clocks) measure(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, measureTimeout)
	defer cancel()
	return errors.Join(c.broker.Measure(ctx), c.ledger.Measure(ctx)) // a ledger in buckets has the broker's clock
}

// keepMeasuring measures regularly until ctx ends.
func (c *Clocks) keepMeasuring(ctx context.Context) {
	every := time.NewTicker(measureEvery)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
			if err := c.measure(ctx); err != nil && ctx.Err() == nil {
				c.log.Warn().Err(err).Msg("cannot compare the clocks; the last measurement stays in use")
			}
		}
	}
}

// Skews are how far this host's clock is ahead of the ledger's and of NATS', negative when it is behind.
func (c *Clocks) Skews() (ledger, broker time.Duration) {
	ledger, _ = c.ledger.Skew()
	broker, _ = c.broker.Skew()
	return ledger, broker
}

// Fit is nil while the clocks are within MaxSkew; else a fault.Reason with the figures. It makes no call.
func (c *Clocks) Fit() error {
	l, b := c.Skews()
	switch {
	case l.Abs() > MaxSkew:
		return skewError("这台主机", "账本", "this host's", "the ledger's", l)
	case b.Abs() > MaxSkew:
		return skewError("这台主机", "NATS", "this host's", "NATS'", b)
	case (b - l).Abs() > MaxSkew:
		return skewError("账本", "NATS", "the ledger's", "NATS'", b-l)
	}
	return nil
}

// skewError says that one clock is so far ahead of another.
func skewError(oneZH, otherZH, one, other string, ahead time.Duration) error {
	zh, en := "快", "ahead of"
	if ahead < 0 {
		zh, en = "慢", "behind"
	}
	by := ahead.Abs().Round(100 * time.Millisecond)
	return fault.Reason{
		Code: "clock.skew",
		ZH:   fmt.Sprintf("%s的时钟比%s的时钟%s %s（上限 %s）：请校时（NTP）；在此之前不处理任何消息", oneZH, otherZH, zh, by, MaxSkew),
		EN:   fmt.Sprintf("%s clock is %s %s %s, %s at most: set it right (NTP); nothing is taken until then", one, by, en, other, MaxSkew),
	}
}

const gaugeSkew = "stockbridge_clock_skew_seconds"

// collect registers the figures.
func (c *Clocks) collect(r prometheus.Registerer) {
	r.MustRegister(pullmetrics.New("clocks", []pullmetrics.Gauge{{
		Name: gaugeSkew, Labels: []string{"against"},
		Help: "How far this host's clock is ahead of the ledger's and of NATS'; beyond 5 s either way nothing is taken.",
	}}, func(_ context.Context, observe pullmetrics.Observe) error {
		l, b := c.Skews()
		observe(gaugeSkew, l.Seconds(), "ledger")
		observe(gaugeSkew, b.Seconds(), "nats")
		return nil
	}))
}
