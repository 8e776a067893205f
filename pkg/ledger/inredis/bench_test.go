package inredis_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"stockbridge/pkg/ledger"
	"stockbridge/pkg/ledger/inredis"
	"stockbridge/pkg/ledger/redistest"
)

// BenchmarkOrder measures what a push needs of the ledger, 64 orders at a time: claim, permit, acceptance, return. It
// reports the CPU of both sides, µs an order; with -benchtime 20000x it is precise to some per cent.
func BenchmarkOrder(b *testing.B) {
	server := redistest.Start(b)
	l, err := inredis.Open(inredis.Options{URL: server.URL()})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	o, err := redis.ParseURL(server.URL())
	if err != nil {
		b.Fatal(err)
	}
	client := redis.NewClient(o)
	defer client.Close()
	var n atomic.Int64
	run := b.Name() + strconv.FormatInt(time.Now().UnixNano(), 36)
	order := func(ctx context.Context) error {
		i := n.Add(1)
		no := fmt.Sprintf("CK%s%07d", run[len(run)-8:], i)
		request := ledger.ClaimRequest{
			Key: ledger.Key{Seller: "acme" + strconv.FormatInt(i%2, 10), Kind: "order", No: no}, Hash: fmt.Sprintf("%064d", i), Owner: fmt.Sprintf("%036d", i),
			Group: "SO-" + no, Items: []string{"1", "2", "3"}, PlatformNos: []string{"T-" + no}, Identity: "app/dept/vendor", Revision: 1, Shop: "S01", Warehouse: "W01",
			StreamTime: time.Now(), AuditedAt: time.Now(), First: true, Stream: "ORDERS", Seq: uint64(i),
			Trace: "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01",
		}
		if _, err := l.Claim(ctx, request); err != nil {
			return err
		}
		p, wait, err := l.Acquire(ctx, "app", "push", ledger.Limit{PerSecond: 1_000_000, Concurrent: 1000}, 12*time.Second)
		if err != nil || wait > 0 {
			return fmt.Errorf("waits %s: %w", wait, err)
		}
		returned := make(chan error, 1)
		go func() { returned <- l.Return(ctx, p) }()
		if err := l.Accept(ctx, request, "ESL"+no, nil, time.Now()); err != nil {
			return err
		}
		return <-returned
	}
	if err := order(b.Context()); err != nil {
		b.Fatal(err)
	}
	used := func() (server, own time.Duration) {
		info, err := client.InfoMap(b.Context(), "cpu").Result()
		if err != nil {
			b.Fatal(err)
		}
		for _, f := range []string{"used_cpu_user_main_thread", "used_cpu_sys_main_thread"} {
			v, _ := strconv.ParseFloat(info["CPU"][f], 64)
			server += time.Duration(v * float64(time.Second))
		}
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return server, time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	server0, own0 := used()
	b.ResetTimer()
	var slots sync.WaitGroup
	work := make(chan struct{})
	for range 64 {
		slots.Go(func() {
			for range work {
				if err := order(b.Context()); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for range b.N {
		work <- struct{}{}
	}
	close(work)
	slots.Wait()
	b.StopTimer()
	server1, own1 := used()
	b.ReportMetric(float64((server1-server0).Microseconds())/float64(b.N), "redis-µs/op")
	b.ReportMetric(float64((own1-own0).Microseconds())/float64(b.N), "own-µs/op")
}
