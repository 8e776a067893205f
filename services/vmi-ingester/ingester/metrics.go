package ingester

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"stockbridge/pkg/ledger"
	"stockbridge/pkg/pullmetrics"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/stock"
)

const (
	gaugeUnread = "stockbridge_vmi_unread_seconds"
	gaugeBroken = "stockbridge_vmi_broken_goods"
	// placesAtOnce is how many books are read in parallel at a scrape.
	placesAtOnce = 8
)

// Metrics is what the ingester counts beyond what the bus counts of every consumer.
type Metrics struct {
	// Pages is pages read; Rows is rows by outcome: "adjusted", "noted", "repeated".
	Pages prometheus.Counter
	Rows  *prometheus.CounterVec
	// Gaps is gaps published, Healed gap windows after which nothing was missing.
	Gaps, Healed prometheus.Counter
	// Failed is rejected windows by class: "held", "permanent", "transient" (attempts used up).
	Failed *prometheus.CounterVec
	// Rebuilds is runs that rebuilt a book from the streams.
	Rebuilds prometheus.Counter
}

// NewMetrics registers them.
func NewMetrics(r prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &Metrics{
		Pages: counter("stockbridge_vmi_pages_total", "Pages of stock flows that were read."),
		Rows: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockbridge_vmi_rows_total", Help: "Rows of stock flows, by what became of them.",
		}, []string{"as"}),
		Gaps:   counter("stockbridge_vmi_gaps_total", "Places found where movements are missing."),
		Healed: counter("stockbridge_vmi_gaps_healed_total", "Searches for missing movements after which none is missing."),
		Failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockbridge_vmi_windows_failed_total", Help: "Windows that were held or dead-lettered, by class.",
		}, []string{"class"}),
		Rebuilds: counter("stockbridge_vmi_remakes_total", "Runs that rebuilt a book of stock from the streams."),
	}
	for _, as := range []string{"adjusted", "noted", "repeated"} {
		m.Rows.WithLabelValues(as)
	}
	for _, class := range []string{"held", "permanent", "transient"} {
		m.Failed.WithLabelValues(class)
	}
	r.MustRegister(m.Pages, m.Rows, m.Gaps, m.Healed, m.Failed, m.Rebuilds)
	return m
}

// Collector shows how far the flow of each place was read. Every replica reports the same, whether it reads or not.
func Collector(sellers func() []*seller.Seller, books ledger.Books, now func() time.Time) prometheus.Collector {
	store := &stock.Store{Books: books, Now: now}
	byPlace := []string{"seller", "warehouse", "shop_no"}
	return pullmetrics.New("flows", []pullmetrics.Gauge{
		{Name: gaugeUnread, Help: "Age of the oldest movement that may not have been read; also while the seller is paused.", Labels: byPlace},
		{Name: gaugeBroken, Help: "Goods of which movements were missing at the last tick.", Labels: byPlace},
	}, func(ctx context.Context, observe pullmetrics.Observe) error {
		var group errgroup.Group
		group.SetLimit(placesAtOnce)
		for _, s := range sellers() {
			for _, at := range s.Places() {
				place := stock.Place{Seller: s.Name(), Warehouse: at.Warehouse, ShopNo: at.ShopNo}
				group.Go(func() error {
					st, err := store.State(ctx, place)
					if err != nil || st.Plan.Until == 0 {
						return err
					}
					read := st.Read.Until(st.Plan.Start)
					observe(gaugeUnread, max(0, now().Sub(time.Unix(read, 0)).Seconds()), place.Seller, place.Warehouse, place.ShopNo)
					observe(gaugeBroken, float64(st.Broken), place.Seller, place.Warehouse, place.ShopNo)
					return nil
				})
			}
		}
		return group.Wait()
	})
}
