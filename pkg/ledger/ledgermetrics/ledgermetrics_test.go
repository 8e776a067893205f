package ledgermetrics_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"stockbridge/pkg/ledger"
	"stockbridge/pkg/ledger/ledgermetrics"
)

// saying is a ledger that always gives one answer.
type saying struct {
	ledger.Ledger
	err error
}

func (s *saying) Claim(context.Context, ledger.ClaimRequest) (ledger.Claimed, error) {
	return ledger.Claimed{Claim: ledger.Claim{Owner: "me"}}, s.err
}

// The ledger's answers are passed on; only real errors count as errors.
func TestCallsAreMeasuredAndPassedOn(t *testing.T) {
	l, r := &saying{}, prometheus.NewRegistry()
	w := ledgermetrics.New(l, r)
	for _, err := range []error{nil, ledger.ErrBusy, &ledger.ItemTaken{}, errors.New("connection refused")} {
		l.err = err
		if begun, got := w.Claim(t.Context(), ledger.ClaimRequest{}); begun.Claim.Owner != "me" || !errors.Is(got, err) {
			t.Errorf("%v became %v with %+v", err, got, begun)
		}
	}
	want := `# HELP stockbridge_ledger_errors_total Calls to the ledger that got no answer.
# TYPE stockbridge_ledger_errors_total counter
stockbridge_ledger_errors_total{call="begin"} 1
`
	if err := testutil.GatherAndCompare(r, strings.NewReader(want), "stockbridge_ledger_errors_total"); err != nil {
		t.Error(err)
	}
	if n := testutil.CollectAndCount(r, "stockbridge_ledger_call_seconds"); n != 1 {
		t.Errorf("%d histograms", n)
	}
}
