// Package bustest gives a test a bus on a real server of its own. It knows the topology, but not what is published.
package bustest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/server"
)

// Start runs a server in a temporary directory, or takes an account of the shared cluster (see Run), applies the
// topology for the services, with a replica on each node, and connects. All of it ends with the test.
func Start(t testing.TB, services ...bus.Service) *bus.Bus {
	t.Helper()
	b, _ := StartServer(t, services...)
	return b
}

// StartServer is Start for tests that also need the server's URL.
func StartServer(t testing.TB, services ...bus.Service) (b *bus.Bus, url string) {
	t.Helper()
	url = serverURL(t)
	b = Connect(t, url)
	if _, err := b.Apply(t.Context(), Topology(services...)); err != nil {
		t.Fatal(err)
	}
	return b, url
}

func serverURL(t testing.TB) string {
	t.Helper()
	if Clustered() {
		return account(t)
	}
	s, err := server.Start(server.Options{Dir: t.TempDir(), Port: server.RandomPort, Log: zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s.URL()
}

// Connect connects to a server until the test ends.
func Connect(t testing.TB, url string) *bus.Bus {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	b, err := bus.Connect(ctx, bus.Options{URL: url, Name: "test", Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// Attempts counts in memory, for tests that use the bus without a ledger.
type Attempts struct {
	mu     sync.Mutex
	counts map[string]int
}

var _ bus.Attempts = (*Attempts)(nil)

// Count adds one.
func (a *Attempts) Count(_ context.Context, key string) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.counts == nil {
		a.counts = map[string]int{}
	}
	a.counts[key]++
	return a.counts[key], nil
}

// Uncount takes one back.
func (a *Attempts) Uncount(_ context.Context, key string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.counts[key] > 0 {
		a.counts[key]--
	}
	return nil
}

// Forget drops the count.
func (a *Attempts) Forget(_ context.Context, key string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.counts, key)
	return nil
}

// Sum is the present count over all keys.
func (a *Attempts) Sum() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	sum := 0
	for _, n := range a.counts {
		sum += n
	}
	return sum
}
