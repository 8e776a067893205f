package ingester

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stockbridge/pkg/ledger"
	"stockbridge/pkg/pullmetrics"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/stock"
)

const (
	gaugeUnread = "stockbridge_vmi_unread_seconds"
	gaugeBroken = "stockbridge_vmi_broken_goods"
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

// Collector shows whose flows were not read for longest, and where movements are missing. Every replica reports the same,
// whether it reads or not.
func Collector(sellers func() []*seller.Seller, books ledger.Books, now func() time.Time) prometheus.Collector {
	byPlace, overview := []string{"seller", "warehouse", "shop_no"}, stock.NewOverview(books)
	return pullmetrics.New("flows", []pullmetrics.Gauge{
		{Name: gaugeUnread, Help: "Age of the oldest movement of a place that may not have been read: of the oldest whose sellers are not paused.", Labels: byPlace, Highest: pullmetrics.ShownAtMost},
		{Name: gaugeBroken, Help: "Goods of a place of which movements were missing at the last tick: of the places with the most.", Labels: byPlace, Highest: pullmetrics.ShownAtMost},
	}, func(ctx context.Context, observe pullmetrics.Observe) error {
		var places []stock.Place
		var books []string
		var paused []bool
		for _, s := range sellers() {
			for _, at := range s.Places() {
				p := stock.Place{Seller: s.Name(), Warehouse: at.Warehouse, ShopNo: at.ShopNo}
				places, books, paused = append(places, p), append(books, p.Book()), append(paused, s.Pause != nil)
			}
		}
		states, err := overview.Read(ctx, books)
		if err != nil {
			return err
		}
		for i, st := range states {
			p := places[i]
			if st.Plan.Until != 0 && !paused[i] {
				observe(gaugeUnread, now().Sub(time.Unix(st.Read.Until(st.Plan.Start), 0)).Seconds(), p.Seller, p.Warehouse, p.ShopNo)
			}
			observe(gaugeBroken, float64(st.Broken), p.Seller, p.Warehouse, p.ShopNo)
		}
		return nil
	})
}
