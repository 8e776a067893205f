//go:build cluster

package bus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	orderv1 "stockbridge/proto/order/v1"
	sellerv1 "stockbridge/proto/seller/v1"
)

// cluster is three nodes of one test, whose leaders can be moved and whose nodes can be stopped.
type cluster struct {
	*bustest.Cluster
	t  *testing.T
	b  *bus.Bus
	nc *nats.Conn
}

// newCluster is for stories that need a cluster; make test-cluster builds and runs them.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	t.Parallel()
	c := &cluster{Cluster: bustest.StartCluster(t, 3), t: t}
	c.b = bustest.Connect(t, c.URL())
	if _, err := c.b.Apply(t.Context(), bus.Topology{Replicas: 3, Services: services()}); err != nil {
		t.Fatal(err)
	}
	var err error
	ackWait(t, c.b, 5*time.Second) // an ack whose consumer's leader died is redelivered after this time
	if c.nc, err = nats.Connect(c.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.nc.Close)
	return c
}

// stepDown moves the leader of a stream, or of a consumer ("INTAKE.order-pusher"), to another node.
func (c *cluster) stepDown(what string) {
	c.t.Helper()
	kind := "STREAM"
	if strings.Contains(what, ".") {
		kind = "CONSUMER"
	}
	eventually(c.t, "the leader of "+what+" steps down", func() bool {
		m, err := c.nc.Request("$JS.API."+kind+".LEADER.STEPDOWN."+what, nil, 2*time.Second)
		return err == nil && strings.Contains(string(m.Data), `"success":true`)
	})
}

// leader is the node that leads a stream.
func (c *cluster) leader(stream string) (node int) {
	c.t.Helper()
	node = -1
	eventually(c.t, stream+" has a leader", func() bool {
		s, err := c.b.JS().Stream(c.t.Context(), stream)
		if err != nil {
			return false
		}
		info := s.CachedInfo()
		if info.Cluster != nil {
			node = c.Node(info.Cluster.Leader)
		}
		return node >= 0
	})
	return node
}

// flow publishes orders of every outcome, one after the other until stop.
type flow struct {
	mu        sync.Mutex
	runs      map[string]int
	inHand    map[string]bool
	together  int
	published []string
	stop      func()
}

// outcomes of orders by their number: some are held, some retried, some delayed.
func outcomeOf(i int) string { return []string{"fine", "held", "fine", "again", "delayed"}[i%5] }

func (c *cluster) flow() *flow {
	c.t.Helper()
	f := &flow{runs: map[string]int{}, inHand: map[string]bool{}}
	serving := bus.Serving{Slots: 8, Backoff: func(int) time.Duration { return 20 * time.Millisecond }, Now: soon(11*time.Second, 300*time.Millisecond)}
	serve(c.t, c.b, serving, func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		no := m.OutboundNo
		f.mu.Lock()
		f.runs[no]++
		first := f.runs[no] == 1
		if f.inHand[no] {
			f.together++
		}
		f.inHand[no] = true
		f.mu.Unlock()
		pass(5 * time.Millisecond) // work
		defer func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			delete(f.inHand, no)
		}()
		switch fate, _, _ := strings.Cut(no, "-"); {
		case fate == "held":
			return nil, fault.Hold("shop:acme/S1", errors.New("no such shop"))
		case fate == "again" && first:
			return nil, errors.New("not now")
		case fate == "delayed" && first && !d.Returned:
			return nil, fault.RetryAfter(11*time.Second, errors.New("later"))
		}
		return []event.Event{accepted(m)}, nil
	}, nil)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			no := fmt.Sprintf("%s-%d", outcomeOf(i), i)
			if err := c.b.Publish(c.t.Context(), audit("acme", no)); err != nil {
				c.t.Errorf("publish %s: %v", no, err)
			}
			f.published = append(f.published, no)
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	f.stop = sync.OnceFunc(func() { close(stop); <-done })
	c.t.Cleanup(f.stop)
	return f
}

// deadLetters are the orders that have a dead letter.
func (c *cluster) deadLetters() map[string]bool {
	c.t.Helper()
	items, _, err := c.b.DeadLetters(c.t.Context(), bus.DeadLetterQuery{Limit: 10_000})
	if err != nil {
		c.t.Fatal(err)
	}
	orders := map[string]bool{}
	for _, item := range items {
		orders[item.Key] = true
	}
	return orders
}

// settled is the single server's settled, and logs what is left.
func (c *cluster) settled() {
	c.t.Helper()
	for end := time.Now().Add(12 * time.Second); ; pass(50 * time.Millisecond) {
		left := ""
		for stream, name := range map[string]string{"INTAKE": pusher, "RETRY": bus.RetryName(pusher)} {
			consumer, err := c.b.JS().Consumer(c.t.Context(), stream, name)
			if err != nil {
				left += err.Error()
				continue
			}
			if i := consumer.CachedInfo(); i.NumPending+uint64(i.NumAckPending) > 0 || stream == "INTAKE" && i.Delivered.Stream < newestAudit(c.t, c.b) {
				left += fmt.Sprintf("%s of %s has %d waiting, %d unsettled, %d requests; ",
					name, stream, i.NumPending, i.NumAckPending, i.NumWaiting)
			}
		}
		for subject, n := range subjects(c.t, c.b, "RETRY", ">") {
			left += fmt.Sprintf("%d on %s; ", n, subject)
		}
		if left == "" {
			return
		}
		if time.Now().After(end) {
			c.t.Fatal(left)
		}
	}
}

// came waits until that many more orders have run.
func (f *flow) came(t *testing.T, more int) {
	t.Helper()
	count := func() int {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.runs)
	}
	from := count()
	eventually(t, fmt.Sprintf("%d more orders", more), func() bool { return count() >= from+more })
}

// all compares the flow's results with what was published.
func (c *cluster) all(f *flow) {
	c.t.Helper()
	f.stop()
	var want, held int
	for _, no := range f.published {
		if strings.HasPrefix(no, "held") {
			held++
		} else {
			want++
		}
	}
	eventually(c.t, "every order has its outcome", func() bool {
		return len(published(c.t, c.b, event.OrderAccepted.Name)) == want && len(c.deadLetters()) == held
	})
	c.settled()
	// A publisher whose leader dies repeats the audit, and INTAKE recognises a repeat for 100 ms only: an audit may be stored
	// twice there, and each is handled.
	var stored map[string]int
	eventually(c.t, "every audit is read back", func() bool {
		stored = published(c.t, c.b, event.OrderAudited.Name)
		return len(stored) == len(f.published)
	})
	repeated := 0
	for _, n := range stored {
		repeated += n - 1
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	twice := 0
	for no, n := range f.runs {
		if usual := map[bool]int{true: 2, false: 1}[strings.HasPrefix(no, "again") || strings.HasPrefix(no, "delayed")]; n > usual {
			twice += n - usual
		}
	}
	// A leader that died may have given a message to a worker without anybody else knowing. The next leader gives it to
	// another worker while the first still works: that is what the ledger's claims are for.
	c.t.Logf("%d orders, %d stored again, %d runs more than needed, %d times one in two hands", len(f.published), repeated, twice, f.together)
}

func TestNothingIsLostWhenLeadersStepDown(t *testing.T) {
	c := newCluster(t)
	f := c.flow()
	for range 3 {
		for _, what := range []string{"INTAKE", "INTAKE.order-pusher", "RETRY", "RETRY." + bus.RetryName(pusher), "SHELF"} {
			f.came(t, 5)
			c.stepDown(what)
		}
	}
	f.came(t, 10)
	c.all(f)
}

func TestNothingIsLostWhileNodesStopAndStart(t *testing.T) {
	c := newCluster(t)
	f := c.flow()
	for _, stream := range []string{"INTAKE", "RETRY", "SHELF"} {
		f.came(t, 20)
		node := c.leader(stream)
		c.StopNode(node)
		f.came(t, 20)
		if err := c.StartNode(node); err != nil {
			t.Fatal(err)
		}
		if err := c.Await(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	f.came(t, 10)
	c.all(f)
}

// A replicated stream answers "duplicate message id is in process" while it stores the same message for somebody else.
func TestAnEventPublishedTwiceConcurrentlyIsStoredOnce(t *testing.T) {
	c := newCluster(t)
	other := bustest.Connect(t, c.URL())
	for i := range 50 {
		e := accepted(order("acme", fmt.Sprintf("A-%d", i)))
		var both sync.WaitGroup
		for _, b := range []*bus.Bus{c.b, other, c.b, other} {
			both.Go(func() {
				if err := b.Publish(t.Context(), e); err != nil {
					t.Error(err)
				}
			})
		}
		both.Wait()
	}
	for no, n := range published(t, c.b, event.OrderAccepted.Name) {
		if n != 1 {
			t.Errorf("%s is stored %d times", no, n)
		}
	}
}

func TestTicksContinueUnderAnotherLeader(t *testing.T) {
	c := newCluster(t)
	if err := c.b.SetTick(t.Context(), event.TickPoll, "acme", time.Second); err != nil {
		t.Fatal(err)
	}
	ticks := make(chan time.Time, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- bus.Serve(ctx, c.b, event.PollDue, bus.Serving{Consumer: "status-poller", Slots: 2},
			func(context.Context, *bus.Delivery, *sellerv1.PollDue) ([]event.Event, error) {
				ticks <- time.Now()
				return nil, nil
			}, nil)
	}()
	for range 3 {
		<-ticks
		c.stepDown("TICKS")
		for len(ticks) > 0 {
			<-ticks
		}
		select {
		case <-ticks:
		case <-time.After(15 * time.Second):
			t.Fatal("no tick under the new leader")
		}
	}
	node := c.leader("TICKS")
	c.StopNode(node)
	for range 2 {
		select {
		case <-ticks:
		case <-time.After(20 * time.Second):
			t.Fatal("no tick without the node that led")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
