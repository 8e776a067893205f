package worker

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// gcPercent lets a worker's heap grow to three times the live heap before a collection, instead of Go's two: the
	// live heap is small (some 8 MiB). An idle worker stays below 40 MiB.
	gcPercent = 200
	// busyRate is the allocation rate from which a worker counts as busy, bytes a second: some thousand orders.
	busyRate = 32 << 20
	// busyHeap is what a busy worker's heap may grow to. At three times the live heap it would be collected thirty
	// times a second, which costs a tenth of its CPU.
	busyHeap = 64 << 20
	// idleAfter is after how many quiet seconds a worker counts as idle: work comes in bursts.
	idleAfter = 10
	// gcMax bounds the percentage when the live heap is tiny.
	gcMax = 1000
)

// SavesMemory marks the settings of a service that prefers less memory to less CPU: TuneGC is not for it.
type SavesMemory interface{ SavesMemory() }

// TuneGC tunes how often a worker's garbage is collected, until ctx ends: rarely while it is busy, and soon again
// when it is idle, so that the memory is returned. GOGC takes precedence, and so does GOMEMLIMIT.
func TuneGC(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	percent, calm := gcPercent, idleAfter
	debug.SetGCPercent(percent)
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		read := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}}
		metrics.Read(read)
		for {
			before := read[0].Value.Uint64()
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			metrics.Read(read)
			rate := read[0].Value.Uint64() - before
			if rate >= busyRate {
				calm = 0
			} else if calm++; calm < idleAfter {
				rate = busyRate
			}
			want := gcPercentFor(rate, read[1].Value.Uint64())
			if d := want - percent; d > percent/10 || -d > percent/10 { // setting it stops the world for a moment
				percent = want
				debug.SetGCPercent(percent)
			}
		}
	}()
}

// gcPercentFor is the percentage for a worker that allocates rate bytes a second and has a live heap of live bytes.
func gcPercentFor(rate, live uint64) int {
	if rate < busyRate || live == 0 {
		return gcPercent
	}
	return max(gcPercent, min(gcMax, int(busyHeap*100/live)-100))
}
