package worker_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"
	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	"stockbridge/pkg/ledger/redistest"
	"stockbridge/pkg/worker"
	orderv1 "stockbridge/proto/order/v1"
)

// A host's clock is ten minutes off: the worker says so with the figure and takes no messages; it continues when the
// clock is right.
func TestAWorkerWhoseClockIsOffTakesNothing(t *testing.T) {
	for _, row := range []struct {
		ledger string
		off    time.Duration
		says   string
	}{
		{"redis", 10 * time.Minute, "clock.skew: this host's clock is 10m0s ahead of the ledger's, 5s at most"},
		{"redis", -10 * time.Minute, "clock.skew: this host's clock is 10m0s behind the ledger's, 5s at most"},
		{"kv", 10 * time.Minute, "clock.skew: this host's clock is 10m0s ahead of the ledger's, 5s at most"},
	} {
		t.Run(fmt.Sprint(row.ledger, row.off), func(t *testing.T) {
			t.Parallel()
			_, url := bustest.StartServer(t, bus.Service{Consumers: []bus.Consumer{bus.ConsumerOf("order-pusher", event.OrderAudited)}})
			var off atomic.Int64
			off.Store(int64(row.off))
			host := func() time.Time { return time.Now().Add(time.Duration(off.Load())) }
			b, err := bus.Connect(t.Context(), bus.Options{URL: url, Name: "test", Log: zerolog.Nop(), Now: host})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(b.Close)
			redis := worker.Secret("")
			if row.ledger == "redis" {
				redis = worker.Secret(redistest.Start(t).URL())
			}
			metrics := prometheus.NewRegistry()
			parts, closeParts, err := worker.Open(t.Context(), b, worker.Options{RedisURL: redis, Log: zerolog.Nop(), Metrics: metrics, Now: host, Grace: time.Second})
			if err != nil {
				t.Fatal(err)
			}
			defer closeParts()

			if err := parts.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), row.says) {
				t.Errorf("ready says %v", err)
			}
			if apart := time.Until(parts.Now()); apart.Abs() > time.Second {
				t.Errorf("services' clock is off by %s", apart)
			}
			if n, err := testutil.GatherAndCount(metrics, "stockbridge_clock_skew_seconds"); err != nil || n != 2 {
				t.Errorf("%d figures, %v", n, err)
			}

			var handled atomic.Int32
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			serving := parts.Shell("order-pusher").Serving("order-pusher")
			var asked atomic.Int32
			fit := serving.Fit
			serving.Fit = func() error { asked.Add(1); return fit() }
			go func() {
				ended <- bus.Serve(ctx, b, event.OrderAudited, serving, func(context.Context, *bus.Delivery, *orderv1.Audited) ([]event.Event, error) {
					handled.Add(1)
					return nil, nil
				}, nil)
			}()
			o := &orderv1.Audited{
				Seller: "acme", Shop: "S01", Warehouse: "W01", OrderNo: "SO-1", OutboundNo: "A-1", Revision: 1, AuditedAt: timestamppb.Now(), OrderedAt: timestamppb.Now(),
				Receiver: &orderv1.Receiver{Name: "王芳", Mobile: "13800000000", Province: "北京", City: "北京市", County: "朝阳区", Address: "长安路1号"},
				Lines:    []*orderv1.Line{{LineId: "1", GoodsCode: "TEA", Quantity: 2}},
			}
			if err := b.Publish(t.Context(), event.OrderAudited.About(o.Seller, o.OutboundNo, time.Now(), o, event.Revision(1))); err != nil {
				t.Fatal(err)
			}
			eventually(t, "it looks whether it is fit", func() bool { return asked.Load() > 3 })
			if handled.Load() != 0 {
				t.Error("it took an order")
			}
			off.Store(0)
			if err := parts.Ready(t.Context()); err != nil {
				t.Errorf("with a clock that is right again: %v", err)
			}
			eventually(t, "it takes the order", func() bool { return handled.Load() == 1 })
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}
