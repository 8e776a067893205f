package jd

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse/callmetrics"
	"stockbridge/pkg/warehouse/jd/jdaccount"
	"stockbridge/pkg/warehouse/jd/jdapi"
	"stockbridge/pkg/warehouse/warehousetest"
)

// Each request is counted by its outcome, and JD's "too many" by account.
func TestRequestsAreCountedByTheirOutcome(t *testing.T) {
	answers := []string{accepted, refusedBy("2", "limited"), refusedBy("2", "limited"), refusedBy("5001", "no"), refusedBy("43", "busy"), refusedBy("24", "no right"), "", refusedBy("5001", "no")}
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		answer := answers[0]
		if answers = answers[1:]; answer == "" {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(rw, answer)
	}))
	defer server.Close()
	transport := jdapi.NewTransport()
	defer transport.CloseIdleConnections()
	r := prometheus.NewRegistry()
	w, err := New(Options{
		Seller: seller.New(setup(server.URL+"/routerjson"), nil), Warehouse: "W01", Class: quota.Push, Env: env, Transport: transport, Metrics: callmetrics.New(r),
	})
	if err != nil {
		t.Fatal(err)
	}
	for range len(answers) - 1 {
		_, _ = warehousetest.Send(t.Context(), w.Orders(), warehousetest.Order("A-1")) // what the errors mean is tested elsewhere
	}
	_, _ = w.Purchases().Cancel(t.Context(), "EPL1")
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]uint64{}
	for _, f := range families {
		for _, m := range f.Metric {
			key := ""
			for _, l := range m.Label {
				key += l.GetValue() + " "
			}
			got[key] = m.GetHistogram().GetSampleCount() + uint64(m.GetCounter().GetValue())
		}
	}
	want := map[string]uint64{
		"push order.addOrder ok ": 1, "push order.addOrder quota ": 2, "push order.addOrder business ": 1,
		"push po.cancalPoOrder business ": 1,
		"push order.addOrder transient ":  1, "push order.addOrder permission ": 1, "push order.addOrder lost ": 1,
		jdaccount.Kind{}.Capabilities(w.account).Quota.Application + " ": 2,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
