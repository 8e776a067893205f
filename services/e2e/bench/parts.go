//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/wiring"
	"stockbridge/pkg/worker"
	documentv1 "stockbridge/proto/document/v1"
)

// Names that the bare loop and its driver share.
const (
	bareConsumer = "bench-bare"
	// bareStream holds its orders: laid out like the stream of audits, but no worker reads it.
	bareStream  = "BENCH"
	bareSubject = "bench.order"
)

// inFlight is how many orders both sides have in hand.
const inFlight = 64

// play runs one of the reference processes until a signal.
func play(part string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	parts := map[string]func(context.Context) error{"jd": answer, "bare": bare, "pipeline": pipeline}
	run, ok := parts[part]
	if !ok {
		run = func(context.Context) error { return fmt.Errorf("no part %q", part) }
	}
	if err := run(ctx); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}

// serve answers readyz, and the given handler for the rest, at the address that the harness chose.
func serve(ctx context.Context, rest http.HandlerFunc) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/readyz", func(http.ResponseWriter, *http.Request) {})
	if rest != nil {
		mux.HandleFunc("/", rest)
	}
	s := &http.Server{Addr: os.Getenv("HTTP_ADDR"), Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = s.Close() })()
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// answer is a JD that accepts every order after BENCH_LATENCY, checks nothing, finds no order and lists none. With BENCH_OPEN it finds
// every order, standing still, and counts how often it is asked.
func answer(ctx context.Context) error {
	latency, err := time.ParseDuration(os.Getenv("BENCH_LATENCY"))
	if err != nil {
		return err
	}
	var open *openJD
	if os.Getenv("BENCH_OPEN") != "" {
		open = &openJD{last: map[string]time.Time{}}
	}
	var taken atomic.Int64
	return serve(ctx, func(w http.ResponseWriter, r *http.Request) {
		if open != nil {
			if open.control(w, r) {
				return
			}
			time.Sleep(latency)
			numbers, err := openOf(r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			w.Header().Set("Content-Type", "application/json;charset=UTF-8")
			_, _ = io.WriteString(w, open.list(numbers))
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		if latency > 0 {
			time.Sleep(latency)
		}
		w.Header().Set("Content-Type", "application/json;charset=UTF-8")
		method := r.URL.Query().Get("method")
		if strings.HasSuffix(method, ".queryOrderListByStatus") {
			_, _ = io.WriteString(w, `{"jingdong_eclp_order_queryOrderListByStatus_responce":{"code":"0","orderQueryResult":{"resultCode":"1","soNoList":[]}}}`)
			return
		}
		if !strings.HasSuffix(method, ".addOrder") {
			_, _ = io.WriteString(w, `{"jingdong_eclp_order_ext_queryOrder_responce":{"code":"0","queryorder_result":[]}}`)
			return
		}
		no := strconv.FormatInt(4418000000000+taken.Add(1), 10)
		_, _ = io.WriteString(w, `{"jingdong_eclp_order_addOrder_responce":{"code":"0","eclpSoNo":"ESL`+no+`"}}`)
	})
}

// bare is the bare loop.
func bare(ctx context.Context) error {
	worker.TuneGC(ctx) // as workers do
	text, err := os.ReadFile(os.Getenv("BENCH_SETUP"))
	if err != nil {
		return err
	}
	setup, err := seller.Parse(text)
	if err != nil {
		return err
	}
	s := seller.New(setup, nil)
	s.Version = 1 // so that its warehouse is cached
	warehouses := wiring.NewWarehouses(nil)
	defer warehouses.Close()
	wh, err := warehouses.Open(s, "W01", quota.Push)
	if err != nil {
		return err
	}
	nc, err := nats.Connect(os.Getenv("NATS_URL"))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	intake, err := js.Stream(ctx, bus.StreamIntake)
	if err != nil {
		return err
	}
	alike := intake.CachedInfo().Config
	alike.Name, alike.Subjects, alike.Metadata = bareStream, []string{bareSubject + ".*"}, nil
	if _, err := js.CreateOrUpdateStream(ctx, alike); err != nil {
		return err
	}
	consumer, err := js.CreateOrUpdateConsumer(ctx, bareStream, jetstream.ConsumerConfig{
		Durable: bareConsumer, FilterSubject: bareSubject + ".*", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 20_000,
	})
	if err != nil {
		return err
	}
	in := make(chan jetstream.Msg)
	consuming, err := consumer.Consume(func(m jetstream.Msg) { in <- m })
	if err != nil {
		return err
	}
	var slots sync.WaitGroup
	for range inFlight {
		slots.Go(func() {
			for m := range in {
				if err := pushBare(ctx, js, wh.(warehouse.Orderer).Orders(), m); err != nil {
					fmt.Fprintln(os.Stderr, "bare loop:", err)
				}
			}
		})
	}
	err = serve(ctx, nil)
	consuming.Stop()
	<-consuming.Closed()
	close(in)
	slots.Wait()
	return err
}

func pushBare(ctx context.Context, js jetstream.JetStream, orders warehouse.OrderChannel, m jetstream.Msg) error {
	o, err := bus.Decode(event.OrderAudited, bus.Stored{Header: m.Headers(), Body: m.Data()})
	if err != nil {
		return err
	}
	taken, err := orders.Send(ctx, o, orders.Plan(o))
	if err != nil {
		return err
	}
	now := time.Now()
	e := event.OrderAccepted.About(o.Seller, o.OutboundNo, now, &documentv1.Accepted{
		Ref: &documentv1.Ref{
			Seller: o.Seller, Shop: o.Shop, Warehouse: o.Warehouse, OrderNo: o.OrderNo, OutboundNo: o.OutboundNo, Revision: o.Revision,
			WarehouseNo: taken.WarehouseNo, Kind: "order", No: o.OutboundNo,
		},
		At: timestamppb.New(now),
	}, event.Revision(o.Revision))
	body, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(e.Message)
	if err != nil {
		return err
	}
	out := nats.NewMsg(e.Subject())
	out.Data = body
	for _, h := range [][2]string{
		{event.HeaderSpec, "1.0"}, {event.HeaderID, e.ID}, {event.HeaderType, e.Name}, {event.HeaderSource, "bench"}, {event.HeaderSubject, e.Key},
		{event.HeaderTime, now.Format(time.RFC3339Nano)}, {event.HeaderContentType, "application/json"}, {jetstream.MsgIDHeader, e.ID},
	} {
		out.Header.Set(h[0], h[1])
	}
	stored, err := js.PublishMsgAsync(out)
	if err != nil {
		return err
	}
	select {
	case <-stored.Ok():
		return m.Ack()
	case err := <-stored.Err():
		return err
	}
}
