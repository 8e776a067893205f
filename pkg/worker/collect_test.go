package worker

import "testing"

func TestOnlyABusyWorkerGetsMoreHeap(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		name       string
		rate, live uint64
		want       int
	}{
		{"idle", 0, 8 * mib, 200},
		{"some orders", 10 * mib, 8 * mib, 200},
		{"busy: up to 64 MiB", 100 * mib, 8 * mib, 700},
		{"busy, with next to nothing alive", 100 * mib, mib, 1000},
		{"busy, with much alive: no less than an idle one", 100 * mib, 100 * mib, 200},
		{"before the first collection", 100 * mib, 0, 200},
	} {
		if got := gcPercentFor(c.rate, c.live); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}
