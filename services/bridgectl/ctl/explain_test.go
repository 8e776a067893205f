package ctl

import (
	"strings"
	"testing"

	"stockbridge/pkg/ledger"
)

// The trace is printed in the form that tracing tools accept as a query.
func TestExplainPrintsTheTrace(t *testing.T) {
	x := &explained{a: &app{columns: 200}, row: rowFor[ofOrders](), of: map[string]bool{}, known: map[string]bool{}}
	for no, trace := range map[string]string{
		"A-1": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "A-2": "",
	} {
		x.entry(ledger.Entry{Key: ledger.Key{Seller: "acme", Kind: "order", No: no}, Trace: trace})
	}
	var out strings.Builder
	if err := x.write(&out); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); !strings.Contains(got, "trace of A-1: 4bf92f3577b34da6a3ce929d0e0e4736\n") || strings.Contains(got, "trace of A-2") {
		t.Error(got)
	}
}
