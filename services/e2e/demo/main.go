// Command demo runs a merchant's day through the real workers, with everything going wrong that can, and then compares
// the sandbox's own count with what the streams say. It exits 1 when a promise breaks.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() { os.Exit(start()) }

func start() int {
	var s story
	flag.IntVar(&s.orders, "orders", 500, "orders to publish, from 50 to 100000")
	flag.Uint64Var(&s.seed, "seed", 1, "the same seed repeats the same story")
	flag.DurationVar(&s.limit, "limit", 5*time.Minute, "give up after this time")
	flag.Parse()
	if s.orders < 50 || s.orders > 100_000 || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "demo: -orders must be from 50 to 100000, and there are no further arguments")
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, s.limit)
	defer cancel()
	s.out = os.Stdout
	if err := s.run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		return 1
	}
	return 0
}
