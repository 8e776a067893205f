//go:build unix

package plant

import (
	"testing"

	"stockbridge/pkg/faultproxy"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/ledger/redistest"
	"stockbridge/pkg/wiring"
)

func TestEachScenarioIsWrittenDown(t *testing.T) {
	for _, s := range Scenarios() {
		if scripts()[s.Name] == nil {
			t.Errorf("nobody wrote down how %s goes", s.Name)
		}
	}
	if len(scripts()) != len(Scenarios()) {
		t.Error("a script without a scenario")
	}
}

// A scenario whose moment never comes would end without having provoked anything.
func TestAClaimIsRecognised(t *testing.T) {
	t.Parallel()
	p, err := faultproxy.Start("127.0.0.1:0", redistest.Start(t).Addr(), faultproxy.RESP)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	l, err := wiring.Ledger(t.Context(), "redis://"+p.Addr()+"/0", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	claim := func(no string) {
		t.Helper()
		if _, err := l.Claim(t.Context(), ledger.ClaimRequest{Key: ledger.Key{Seller: "acme", Kind: "order", No: no}, Group: no, Owner: "test", Items: []string{"1"}}); err != nil {
			t.Fatal(err)
		}
	}
	met := p.LoseAnswer(claims("SO-2"))
	claim("SO-1")
	select {
	case <-met:
		t.Fatal("another order's claim is taken for it")
	default:
	}
	claim("SO-2")
	<-met
}
