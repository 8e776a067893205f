package inredis_test

import (
	"testing"
	"time"

	"stockbridge/pkg/ledger"
	"stockbridge/pkg/ledger/inredis"
	"stockbridge/pkg/ledger/ledgertest"
	"stockbridge/pkg/ledger/redistest"
)

// store is a server that the tests of the suite use one after the other.
type store struct {
	t *testing.T
	*redistest.Server
}

func (s store) Open(now func() time.Time) ledger.Ledger {
	s.t.Helper()
	return open(s.t, s.URL(), now)
}

func inredisOpen(url string) (*inredis.Ledger, error) { return inredis.Open(inredis.Options{URL: url}) }

func open(t testing.TB, url string, now func() time.Time) *inredis.Ledger {
	t.Helper()
	l, err := inredis.Open(inredis.Options{URL: url, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func TestContract(t *testing.T) {
	server := redistest.Start(t)
	ledgertest.Test(t, func(t *testing.T) ledgertest.Store {
		server.Wipe()
		return store{t, server}
	})
}
