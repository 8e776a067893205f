//go:build unix

package procs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/jdsandbox/control"
)

// Shape is what Stand starts.
type Shape struct {
	// Nodes of nats-server: 1 or 3. 0 means 1.
	Nodes int
	// Sync is JetStream's sync_interval; "always" when empty.
	Sync string
	// Redis is appendfsync: always, everysec or no. Empty starts no Redis: the ledger is JetStream's.
	Redis string
	// Sandbox is started when not nil.
	Sandbox *jdsandbox.Config
}

// Stand builds what is missing, starts the servers and the sandbox, and applies the topology.
func (r *Run) Stand(ctx context.Context, s Shape) error {
	if err := r.Build(ctx, NATSServer, Bridgectl); err != nil {
		return err
	}
	if err := r.StartNATS(ctx, max(s.Nodes, 1), s.Sync); err != nil {
		return err
	}
	if s.Redis != "" {
		if err := r.StartRedis(ctx, s.Redis); err != nil {
			return err
		}
	}
	if s.Sandbox != nil {
		if err := r.StartSandbox(ctx, *s.Sandbox); err != nil {
			return err
		}
	}
	_, err := r.Bridgectl(ctx, "", "topology", "apply", "--replicas", fmt.Sprint(len(r.NATS.Nodes)))
	return err
}

// NATS is one nats-server, or a cluster of them.
type NATS struct {
	Nodes   []*Process
	run     *Run
	clients []string
	watch   []string // the nodes' monitoring addresses
	folders []string
}

// StartNATS starts nats-server, one node or a cluster, with JetStream syncing as sync says ("always", a duration, or ""
// for always), and sets r.NATS. Nodes do not advertise each other to clients: a client that is given the address of a
// proxy stays behind it.
func (r *Run) StartNATS(ctx context.Context, nodes int, sync string) error {
	if err := r.Build(ctx, NATSServer); err != nil {
		return err
	}
	if sync == "" {
		sync = "always"
	}
	n := &NATS{run: r}
	var routes []string
	for range nodes {
		var addrs [3]string
		for i := range addrs {
			addr, err := r.Addr()
			if err != nil {
				return err
			}
			addrs[i] = addr
		}
		n.clients, n.watch, routes = append(n.clients, addrs[0]), append(n.watch, addrs[1]), append(routes, addrs[2])
	}
	for i := range nodes {
		name := fmt.Sprintf("nats-%d", i+1)
		folder := r.data("nats", name)
		config := fmt.Sprintf("server_name: %q\nlisten: %q\nhttp: %q\njetstream { store_dir: %q, sync_interval: %s }\n",
			name, n.clients[i], n.watch[i], folder, sync)
		if nodes > 1 {
			config += fmt.Sprintf("cluster { name: stockbridge, listen: %q, routes: [%s], no_advertise: true }\n", routes[i], `"nats://`+strings.Join(routes, `", "nats://`)+`"`)
		}
		file := filepath.Join(r.o.Dir, name+".conf")
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			return err
		}
		p, err := r.launch(Spec{
			Name: name, Program: r.Binary(NATSServer), Args: []string{"-c", file}, Env: []string{"HOME=" + r.o.Dir},
			HTTP: "http://" + n.watch[i], Ready: asksFor("http://" + n.watch[i] + "/healthz"),
		})
		if err != nil {
			return err
		}
		n.Nodes, n.folders = append(n.Nodes, p), append(n.folders, folder)
	}
	r.mu.Lock()
	r.NATS = n
	r.mu.Unlock()
	return n.Ready(ctx)
}

// URL names all nodes, as NATS_URL takes them.
func (n *NATS) URL() string { return "nats://" + strings.Join(n.clients, ",nats://") }

// Addrs are the nodes' host and port.
func (n *NATS) Addrs() []string { return n.clients }

// Ready waits until every node is healthy: recovered and, in a cluster, current. A node that is healthy itself may still
// be offline for the leader, which then places no stream there: so the leader is asked too.
func (n *NATS) Ready(ctx context.Context) error {
	for _, p := range n.Nodes {
		if err := p.ready(ctx); err != nil {
			return err
		}
	}
	if len(n.Nodes) == 1 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	return n.Nodes[0].Until(ctx, n.complete)
}

// complete is nil when the leader of the cluster sees every other node.
func (n *NATS) complete(ctx context.Context) error {
	for i, p := range n.Nodes {
		page, err := readJSZ(ctx, n.watch[i])
		if err != nil {
			return err
		}
		if page.Meta.Leader != p.Name {
			continue
		}
		seen := 0
		for _, r := range page.Meta.Replicas {
			if r.Current && !r.Offline {
				seen++
			}
		}
		if seen != len(n.Nodes)-1 {
			return fmt.Errorf("%s leads the cluster and sees %d nodes besides itself", p.Name, seen)
		}
		return nil
	}
	return errors.New("the cluster has no leader")
}

// Start starts what does not run, and waits until all nodes are healthy.
func (n *NATS) Start(ctx context.Context) error {
	for _, p := range n.Nodes {
		if err := p.relaunch(); err != nil {
			return err
		}
	}
	return n.Ready(ctx)
}

// Restart stops all nodes, then starts them together. A cluster whose disks were full needs that: a node that is restarted
// alone finds no leader, because JetStream is off on the others.
func (n *NATS) Restart(ctx context.Context) error {
	for _, p := range n.Nodes {
		if err := p.Stop(ctx); err != nil {
			return err
		}
	}
	return n.Start(ctx)
}

// Kill kills all nodes that run.
func (n *NATS) Kill() error {
	for _, p := range n.Nodes {
		if p.Alive() {
			if err := p.Kill(); err != nil {
				return err
			}
		}
	}
	return nil
}

// Copy copies JetStream's folders.
func (n *NATS) Copy() (Copy, error) { return n.run.copyOf(n.Nodes, n.folders) }

// Restore kills all nodes, restores an older copy and starts them.
func (n *NATS) Restore(ctx context.Context, c Copy) error {
	return restore(ctx, n.Nodes, n.folders, c, n.Start)
}

// Leader is the node that leads a stream, or the cluster's own group when stream is "". A single node leads. Nil when
// there is none at present.
func (n *NATS) Leader(ctx context.Context, stream string) (*Process, error) {
	if len(n.Nodes) == 1 {
		return n.Nodes[0], nil
	}
	var failed error
	for i, p := range n.Nodes {
		if !p.Alive() {
			continue
		}
		name, err := n.leaderAs(ctx, n.watch[i], stream)
		if err != nil {
			failed = err
			continue
		}
		for _, p := range n.Nodes {
			if p.Name == name {
				return p, nil
			}
		}
	}
	return nil, failed
}

// Waiting is what is not settled yet.
type Waiting struct {
	// Unsettled of each consumer: not delivered, or delivered and not acked.
	Unsettled map[string]int
}

// Waiting asks the leaders.
func (n *NATS) Waiting(ctx context.Context) (Waiting, error) {
	w := Waiting{Unsettled: map[string]int{}}
	for i, p := range n.Nodes {
		page, err := readJSZ(ctx, n.watch[i])
		if err != nil {
			return w, err
		}
		for _, a := range page.Accounts {
			for _, s := range a.Streams {
				for _, c := range s.Consumers {
					if c.Cluster.leads(p.Name) {
						w.Unsettled[c.Name] = int(c.Pending) + c.InHand
					}
				}
			}
		}
	}
	return w, nil
}

// jsz is what we read of a node's JetStream page.
type jsz struct {
	Meta struct {
		Leader   string `json:"leader"`
		Replicas []struct {
			Current bool `json:"current"`
			Offline bool `json:"offline"`
		} `json:"replicas"`
	} `json:"meta_cluster"`
	Accounts []struct {
		Streams []struct {
			Name      string  `json:"name"`
			Cluster   cluster `json:"cluster"`
			Consumers []struct {
				Name    string  `json:"name"`
				Cluster cluster `json:"cluster"`
				Pending uint64  `json:"num_pending"`
				InHand  int     `json:"num_ack_pending"`
			} `json:"consumer_detail"`
		} `json:"stream_detail"`
	} `json:"account_details"`
}

type cluster struct {
	Leader string `json:"leader"`
}

// leads reports whether the node is the leader; a single node's page names none.
func (c cluster) leads(node string) bool { return c.Leader == "" || c.Leader == node }

// readJSZ reads a node's page.
func readJSZ(ctx context.Context, watch string) (jsz, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+watch+"/jsz?consumers=1", nil)
	if err != nil {
		return jsz{}, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return jsz{}, err
	}
	defer res.Body.Close()
	var page jsz
	if err := json.NewDecoder(res.Body).Decode(&page); err != nil {
		return page, fmt.Errorf("read %s/jsz: %w", watch, err)
	}
	return page, nil
}

// leaderAs asks one node for the leader.
func (n *NATS) leaderAs(ctx context.Context, watch, stream string) (string, error) {
	page, err := readJSZ(ctx, watch)
	if err != nil {
		return "", err
	}
	if stream == "" {
		return page.Meta.Leader, nil
	}
	for _, a := range page.Accounts {
		for _, s := range a.Streams {
			if s.Name == stream && s.Cluster.Leader != "" {
				return s.Cluster.Leader, nil
			}
		}
	}
	return "", nil
}

// Redis is one redis-server with an append-only file.
type Redis struct {
	*Process
	addr, folder string
}

// StartRedis starts redis-server with appendfsync as given, and sets r.Redis.
func (r *Run) StartRedis(ctx context.Context, appendfsync string) error {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return fmt.Errorf("a real redis-server is needed on the PATH (make redis): %w", err)
	}
	addr, err := r.Addr()
	if err != nil {
		return err
	}
	s := &Redis{addr: addr, folder: r.data("redis", "redis")}
	if err := os.MkdirAll(s.folder, 0o700); err != nil {
		return err
	}
	config := fmt.Sprintf("bind 127.0.0.1\nport %s\ndir %q\nappendonly yes\nappendfsync %s\nsave \"\"\nmaxmemory-policy noeviction\n",
		portOf(addr), s.folder, appendfsync)
	file := filepath.Join(r.o.Dir, "redis.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return err
	}
	s.Process, err = r.Start(ctx, Spec{Name: "redis", Program: program, Args: []string{file}, Ready: func(ctx context.Context) error {
		answer, err := s.Ask(ctx, "PING")
		if err == nil && answer != "+PONG" {
			err = fmt.Errorf("PING: %s", answer) // it is still reading its file
		}
		return err
	}})
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.Redis = s
	r.mu.Unlock()
	return nil
}

// URL is its address as REDIS_URL takes it.
func (s *Redis) URL() string { return "redis://" + s.addr + "/0" }

// Addr is its host and port.
func (s *Redis) Addr() string { return s.addr }

// Ask sends a command and returns the first line of the answer, without its line end.
func (s *Redis) Ask(ctx context.Context, words ...string) (string, error) {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", s.addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	limit := time.Now().Add(5 * time.Second)
	if end, ok := ctx.Deadline(); ok && end.Before(limit) {
		limit = end
	}
	if err := conn.SetDeadline(limit); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(conn, "%s\r\n", strings.Join(words, " ")); err != nil {
		return "", err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimRight(answer, "\r\n"), err
}

// Wipe kills it and starts it without data: another run. FLUSHALL, by Ask, deletes within the same run.
func (s *Redis) Wipe(ctx context.Context) error { return s.Restore(ctx, Copy{}) }

// Copy copies its files.
func (s *Redis) Copy() (Copy, error) {
	return s.run.copyOf([]*Process{s.Process}, []string{s.folder})
}

// Restore kills it, restores an older copy and starts it: the older data, another run.
func (s *Redis) Restore(ctx context.Context, c Copy) error {
	return restore(ctx, []*Process{s.Process}, []string{s.folder}, c, s.Start)
}

// Sandbox is a jd-sandbox.
type Sandbox struct {
	*Process
	// Client of its control API.
	*control.Client
	// Base is where it listens: JD's gateway is at Base + "/routerjson".
	Base string
}

// StartSandbox starts jd-sandbox with the settings given, and sets r.Sandbox.
func (r *Run) StartSandbox(ctx context.Context, config jdsandbox.Config) error {
	if err := r.Build(ctx, JDSandbox); err != nil {
		return err
	}
	addr, err := r.Addr()
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(config, "", "  ") // which is YAML too
	if err != nil {
		return err
	}
	file := filepath.Join(r.o.Dir, "sandbox.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return err
	}
	s := &Sandbox{Base: "http://" + addr, Client: control.New("http://" + addr)}
	s.Process, err = r.Start(ctx, Spec{
		Name: "jd-sandbox", Program: r.Binary(JDSandbox), Args: []string{"-addr", addr, "-config", file}, Env: []string{"HOME=" + r.o.Dir},
		HTTP: s.Base, Ready: asksFor(s.Base + "/_sandbox/clock"),
	})
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.Sandbox = s
	r.mu.Unlock()
	return nil
}
