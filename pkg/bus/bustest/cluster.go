package bustest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/server"
)

// nodes is a flag of every test binary that imports this package: go test ./bus -nodes 3.
var nodes = flag.Int("nodes", 1, "nodes of the NATS server that tests run on: 1, or 3 for a cluster with three replicas of everything") //nolint:gochecknoglobals // a flag

// accounts is how many accounts the shared cluster has. While tests run in some, others are prepared.
const accounts = 6

// shared is the cluster that the tests of a binary share, each in an account of its own: starting one takes seconds,
// and so does creating streams with three replicas.
var shared struct { //nolint:gochecknoglobals // what TestMain makes for all tests
	*Cluster
	ready    chan string // accounts in which the topology is applied and nothing else is stored
	services []bus.Service
	work     sync.WaitGroup
}

// Run is for TestMain: it runs the tests on one server each or, when -nodes says so, on a cluster that they share. The
// services are those that Start lays out for; it saves time to name them here too.
func Run(m *testing.M, services ...bus.Service) (code int) {
	flag.Parse()
	if *nodes == 1 {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "bustest")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	shared.ready, shared.services = make(chan string, accounts), services
	if shared.Cluster, err = startCluster(dir, *nodes); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer shared.Stop()
	for i := range accounts {
		prepare(fmt.Sprintf("t%d", i))
	}
	defer shared.work.Wait()
	return m.Run()
}

// prepare readies an account.
func prepare(name string) {
	shared.work.Go(func() {
		var err error
		for range 3 { // sized for two slow cores that run many tests
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			if err = empty(ctx, shared.url(name)); err == nil {
				err = apply(ctx, shared.url(name))
			}
			cancel()
			if err == nil {
				shared.ready <- name
				return
			}
		}
		fmt.Fprintln(os.Stderr, "an account is lost:", err)
	})
}

func apply(ctx context.Context, url string) error {
	b, err := bus.Connect(ctx, bus.Options{URL: url, Name: "bustest", Log: zerolog.Nop()})
	if err != nil {
		return err
	}
	defer b.Close()
	_, err = b.Apply(ctx, Topology(shared.services...))
	return err
}

// Clustered reports whether tests run on a cluster.
func Clustered() bool { return *nodes > 1 }

// Topology is what Start applies: a replica on each node.
func Topology(services ...bus.Service) bus.Topology {
	return bus.Topology{Replicas: *nodes, Services: services}
}

// account takes an account of the shared cluster until the test ends.
func account(t testing.TB) (url string) {
	t.Helper()
	if shared.Cluster == nil {
		t.Fatal("-nodes needs bustest.Run in the package's TestMain")
	}
	select {
	case name := <-shared.ready:
		t.Cleanup(func() { prepare(name) })
		return shared.url(name)
	case <-time.After(time.Minute):
		t.Fatal("no account of the shared cluster becomes ready")
		return ""
	}
}

// empty deletes the streams of an account.
func empty(ctx context.Context, url string) error {
	nc, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	list := js.StreamNames(ctx)
	var errs []error
	for name := range list.Name() {
		errs = append(errs, js.DeleteStream(ctx, name))
	}
	return errors.Join(append(errs, list.Err())...)
}

// Cluster is several servers in this process that replicate the same streams.
type Cluster struct {
	mu      sync.Mutex
	options []server.Options
	running []*server.Server // nil while it is stopped
	urls    []string
}

// StartCluster starts a cluster for this test, which ends with it.
func StartCluster(t testing.TB, n int) *Cluster {
	t.Helper()
	c, err := startCluster(t.TempDir(), n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	return c
}

func startCluster(dir string, n int) (*Cluster, error) {
	peers, ports := make([]string, n), make([]int, 2*n)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() //nolint:errcheck // only its number is wanted
		at, ok := l.Addr().(*net.TCPAddr)
		if !ok {
			return nil, fmt.Errorf("no TCP address: %s", l.Addr())
		}
		if ports[i] = at.Port; i < n {
			peers[i] = at.String()
		}
		if err := l.Close(); err != nil {
			return nil, err
		}
	}
	var config strings.Builder
	config.WriteString("accounts {\n")
	for i := range accounts {
		fmt.Fprintf(&config, "t%d { jetstream: enabled, users: [{user: t%d, password: x}] }\n", i, i)
	}
	config.WriteString("}\n")
	c := &Cluster{running: make([]*server.Server, n)}
	for i := range n {
		name := fmt.Sprintf("node%d", i)
		c.options = append(c.options, server.Options{
			Dir: filepath.Join(dir, name), Name: name, Port: ports[n+i], Peer: peers[i], Peers: peers, Config: config.String(), Log: zerolog.Nop(),
		})
		c.urls = append(c.urls, fmt.Sprintf("127.0.0.1:%d", ports[n+i]))
	}
	for i := range n {
		if err := c.StartNode(i); err != nil {
			c.Stop()
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := c.Await(ctx); err != nil {
		c.Stop()
		return nil, err
	}
	return c, nil
}

// URL names all nodes, as the user of the first account.
func (c *Cluster) URL() string { return c.url("t0") }

func (c *Cluster) url(user string) string {
	var urls []string
	for _, at := range c.urls {
		urls = append(urls, "nats://"+user+":x@"+at)
	}
	return strings.Join(urls, ",")
}

// NodeURL is one node's, as the user of the first account.
func (c *Cluster) NodeURL(i int) string { return "nats://t0:x@" + c.urls[i] }

// Await waits until all nodes run, have caught up, and have a leader.
func (c *Cluster) Await(ctx context.Context) error {
	for ; ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		leaders, current := 0, 0
		c.mu.Lock()
		for _, s := range c.running {
			if s != nil && s.Leads() {
				leaders++
			}
			if s != nil && s.Current() {
				current++
			}
		}
		c.mu.Unlock()
		if leaders == 1 && current == len(c.running) {
			return nil
		}
	}
	return fmt.Errorf("the cluster of %d does not come together: %w", len(c.running), ctx.Err())
}

// StartNode starts a node, again after StopNode.
func (c *Cluster) StartNode(i int) error {
	s, err := server.Start(c.options[i])
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running[i] = s
	return nil
}

// StopNode stops a node and waits for its end.
func (c *Cluster) StopNode(i int) {
	c.mu.Lock()
	s := c.running[i]
	c.running[i] = nil
	c.mu.Unlock()
	if s != nil {
		s.Stop()
	}
}

// Stop stops all nodes.
func (c *Cluster) Stop() {
	for i := range c.options {
		c.StopNode(i)
	}
}

// Node is the number of the node with the name that JetStream reports.
func (c *Cluster) Node(name string) int {
	for i, o := range c.options {
		if o.Name == name {
			return i
		}
	}
	return -1
}
