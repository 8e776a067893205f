package worker

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// gcPercent lets a worker's heap grow to three times what is alive before it is collected, instead of Go's two: little is
	// alive (some 8 MiB). An idle one stays below 40 MiB.
	gcPercent = 200
	// busyRate is how much a worker allocates that counts as busy, bytes a second: some thousand orders.
	busyRate = 32 << 20
	// busyHeap is what a busy one's heap may grow to. At three times what is alive it would be collected thirty times a
	// second, which is a tenth of its CPU.
	busyHeap = 64 << 20
	// calmAfter is after how many seconds without much to do a worker is busy no more: work comes in bursts.
	calmAfter = 10
	// gcMost bounds the percentage when next to nothing is alive.
	gcMost = 1000
)

// Thrifty are settings of a service that rather takes more CPU than more memory: Collect is not for it.
type Thrifty interface{ Thrifty() }

// Collect sees to how often a worker's garbage is collected, until ctx ends: rarely while it is busy, and soon again when
// it is not, so that the memory goes back. GOGC wins, and so does GOMEMLIMIT.
func Collect(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	percent, calm := gcPercent, calmAfter
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
			} else if calm++; calm < calmAfter {
				rate = busyRate
			}
			want := percentFor(rate, read[1].Value.Uint64())
			if d := want - percent; d > percent/10 || -d > percent/10 { // to set it stops the world for a moment
				percent = want
				debug.SetGCPercent(percent)
			}
		}
	}()
}

// percentFor is the percentage for a worker that allocates so much in a second and has so much alive, in bytes.
func percentFor(rate, live uint64) int {
	if rate < busyRate || live == 0 {
		return gcPercent
	}
	return max(gcPercent, min(gcMost, int(busyHeap*100/live)-100))
}
