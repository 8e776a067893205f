package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"golang.org/x/sync/errgroup"

	"stockbridge/pkg/document/follow"
	"stockbridge/pkg/document/push"
	"stockbridge/pkg/kind/order"
	"stockbridge/pkg/kind/purchase"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/ledger/inredis"
	"stockbridge/pkg/ledger/redistest"
	"stockbridge/pkg/pullmetrics"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/stock"
	"stockbridge/pkg/wiring"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/reconciler/reconciler"
	"stockbridge/services/stock-syncer/syncer"
	"stockbridge/services/vmi-ingester/ingester"
)

// With 60 sellers, each of them in some trouble, a scrape shows sums and 20 names.
func TestAScrapeDoesNotGrowWithSellers(t *testing.T) {
	t.Parallel()
	const n = 60
	l, err := inredis.Open(inredis.Options{URL: redistest.Start(t).URL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	sellers := manySellers(t, l, n)
	all := func() []*seller.Seller { return sellers }
	later := func() time.Time { return time.Now().Add(48 * time.Hour) }
	r := prometheus.NewRegistry()
	wiring.NewMetrics(r, all)
	r.MustRegister(
		push.Unknown([]string{"order"}, all, l, later), follow.Followed([]follow.Kind{follow.Of(order.Kind), follow.Of(purchase.Kind)}, all, l, later),
		reconciler.Collector(all, l, later), syncer.Collector(all, l, time.Minute, later), ingester.Collector(all, l, later),
	)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	type shown struct {
		series int
		sum    float64
	}
	got := map[string]shown{}
	for _, f := range families {
		s := shown{series: len(f.Metric)}
		for _, m := range f.Metric {
			if m.Gauge != nil {
				s.sum += m.Gauge.GetValue()
			}
		}
		got[f.GetName()] = s
	}
	for name, want := range map[string]shown{
		"stockbridge_poll_open_orders": {1, n}, "stockbridge_poll_open_orders_top": {20, 20}, "stockbridge_push_unknown_orders": {1, 0},
		"stockbridge_reconcile_unexplained": {1, n}, "stockbridge_reconcile_strangers": {1, 2 * n}, "stockbridge_reconcile_refused_but_there": {20, 20},
		"stockbridge_reconcile_open":                {len(reconciler.Reasons()), n},
		"stockbridge_quota_budget_calls_per_second": {n, 5 * n},
	} {
		if got[name] != want {
			t.Errorf("%s: %+v, want %+v", name, got[name], want)
		}
	}
	for name, s := range got {
		late := strings.HasSuffix(name, "_seconds") && !strings.Contains(name, "quota")
		if named := s.series == pullmetrics.ShownAtMost; late && !named || s.series > pullmetrics.ShownAtMost && !strings.Contains(name, "quota") {
			t.Errorf("%s has %d series", name, s.series)
		}
	}
}

// BenchmarkScrape is what one scrape of a worker takes by the number of sellers, when each has an open order, a report of the
// reconciler, a place whose stock is followed, and an application of its own: time, CPU of this process, bytes shown, and
// commands of Redis.
func BenchmarkScrape(b *testing.B) {
	for _, n := range []int{10, 2_000, 10_000} {
		server := redistest.Start(b)
		l, err := inredis.Open(inredis.Options{URL: server.URL()})
		if err != nil {
			b.Fatal(err)
		}
		sellers := manySellers(b, l, n)
		all := func() []*seller.Seller { return sellers }
		for _, row := range []struct {
			worker string
			make   func() []prometheus.Collector
		}{
			{"order-pusher", func() []prometheus.Collector {
				return []prometheus.Collector{push.Unknown([]string{"order"}, all, l, time.Now)}
			}},
			{"status-poller", func() []prometheus.Collector {
				return []prometheus.Collector{follow.Followed([]follow.Kind{follow.Of(order.Kind), follow.Of(purchase.Kind)}, all, l, time.Now)}
			}},
			{"reconciler", func() []prometheus.Collector {
				return []prometheus.Collector{reconciler.Collector(all, l, time.Now)}
			}},
			{"stock-syncer", func() []prometheus.Collector {
				return []prometheus.Collector{syncer.Collector(all, l, time.Minute, time.Now)}
			}},
			{"vmi-ingester", func() []prometheus.Collector {
				return []prometheus.Collector{ingester.Collector(all, l, time.Now)}
			}},
			{"each", nil},
		} {
			b.Run(fmt.Sprintf("%s/sellers=%d", row.worker, n), func(b *testing.B) {
				var size int
				before, began := commands(b, server), cpu(b)
				for b.Loop() {
					r := prometheus.NewRegistry()
					if row.make == nil {
						wiring.NewMetrics(r, all)
					} else {
						r.MustRegister(row.make()...)
					}
					families, err := r.Gather()
					if err != nil {
						b.Fatal(err)
					}
					var text bytes.Buffer
					for _, f := range families {
						if _, err := expfmt.MetricFamilyToText(&text, f); err != nil {
							b.Fatal(err)
						}
						if f.GetName() == "stockbridge_scrape_errors_total" && f.Metric[0].GetCounter().GetValue() > 0 {
							b.Fatal("the ledger was not asked")
						}
					}
					size = text.Len()
				}
				b.ReportMetric((cpu(b)-began).Seconds()*1000/float64(b.N), "cpu-ms")
				b.ReportMetric(float64(size), "bytes")
				b.ReportMetric(float64(commands(b, server)-before)/float64(b.N), "commands")
			})
		}
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// cpu is what this process has taken so far.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// commands is how many commands the server has done.
func commands(b *testing.B, s *redistest.Server) int {
	b.Helper()
	c, err := net.Dial("tcp", s.Addr())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "INFO stats\r\n"); err != nil {
		b.Fatal(err)
	}
	for lines := bufio.NewScanner(c); lines.Scan(); {
		if n, ok := strings.CutPrefix(lines.Text(), "total_commands_processed:"); ok {
			v, err := strconv.Atoi(n)
			if err != nil {
				b.Fatal(err)
			}
			return v
		}
	}
	b.Fatal("Redis does not say how much it did")
	return 0
}

// manySellers sets sellers up, and gives each something of everything that a scrape asks for.
func manySellers(b testing.TB, l *inredis.Ledger, n int) []*seller.Seller {
	b.Helper()
	sellers := make([]*seller.Seller, n)
	var g errgroup.Group
	g.SetLimit(64)
	ctx, now := context.Background(), time.Now()
	put := func(book string, field string, v any) error {
		raw, err := json.Marshal(v)
		if err != nil {
			return err
		}
		_, err = l.WriteBook(ctx, book, ledger.BookWrite{Owner: uuid.NewString(), Fields: map[string][]byte{field: raw}})
		return err
	}
	for i := range n {
		name := fmt.Sprintf("seller-%05d", i)
		sellers[i] = seller.New(&sellerv1.Setup{
			Name:     name,
			Accounts: []*sellerv1.Account{{Name: "jd", Kind: sellerv1.Account_KIND_JD, AppKey: name}},
			Shops:    []*sellerv1.Shop{{Code: "S01", ShopNo: "ESP1", Warehouses: []string{"W01"}, Booking: sellerv1.Shop_BOOKING_FLOW}},
		}, nil)
		g.Go(func() error {
			request := ledger.ClaimRequest{Key: ledger.Key{Seller: name, Kind: "order", No: "A-1"}, Hash: "h", Owner: uuid.NewString(), StreamTime: now, AuditedAt: now, First: true}
			if _, err := l.Claim(ctx, request); err != nil {
				return err
			}
			if err := l.Accept(ctx, request, "ESL1", nil, now); err != nil {
				return err
			}
			if err := put("reconcile/"+name, "head", reconciler.Report{
				RanAt: now, CycleAt: now, EpochSince: now, Open: map[reconciler.Reason]int{reconciler.Absent: 1}, Oldest: now, Findings: 2, RefusedButThere: 1,
			}); err != nil {
				return err
			}
			if err := put(syncer.BookOf(name, "W01"), "head", syncer.Head{Counted: now, Seen: now}); err != nil {
				return err
			}
			return put(stock.Place{Seller: name, Warehouse: "W01", ShopNo: "ESP1"}.Book(), "state", stock.State{
				Plan: stock.Plan{Start: now.Unix() - 1000, Until: now.Unix()}, Head: stock.Head{Epoch: now},
			})
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	return sellers
}
