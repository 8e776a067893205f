//go:build prof

package main

import (
	"os"
	"runtime/pprof"
	"strconv"
	"time"
)

func init() {
	if os.Getenv("BENCH_PART") != "bare" {
		return
	}
	go func() {
		for i := 0; ; i++ {
			f, err := os.Create("/tmp/perfprof/out/bench-" + strconv.Itoa(os.Getpid()) + "-" + strconv.Itoa(i) + ".pprof")
			if err != nil {
				return
			}
			_ = pprof.StartCPUProfile(f)
			time.Sleep(900 * time.Millisecond)
			pprof.StopCPUProfile()
			f.Close()
			h, _ := os.Create("/tmp/perfprof/out/bench-" + strconv.Itoa(os.Getpid()) + ".allocs")
			_ = pprof.Lookup("allocs").WriteTo(h, 0)
			h.Close()
		}
	}()
}
