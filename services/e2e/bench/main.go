//go:build unix

// Command bench measures the budgets on this machine: workers, nats-server, redis-server and JD as processes on loopback. It
// prints a table and writes bench.json; it never fails because of a figure.
//
// # Why
//
// A rate on a shared machine means something only in comparison. The push is measured against a bare loop in the same
// minute: it pulls with the client library's defaults, decodes, signs and calls with the same code as the worker,
// publishes, waits for the store and acks, and remembers nothing. A second reference does what a general pipeline would,
// see the function pipeline. Rounds of all alternate on the same servers. The reported figure is the ratio of neighbouring
// rounds, as median, minimum and maximum.
//
// What is a share or a wait (a flood, a backlog, followed orders) is reckoned against what the settings allow, in one run.
//
// JD is a process that answers every call at once: the sandbox checks each call as JD would, which costs more than the
// push.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"stockbridge/services/e2e/procs"
)

func main() { os.Exit(start()) }

func start() int {
	// The reference processes are this program too.
	if part := os.Getenv("BENCH_PART"); part != "" {
		return play(part)
	}
	b := &bench{say: func(line string) { fmt.Fprintln(os.Stderr, time.Now().Format("15:04:05"), line) }}
	flag.StringVar(&b.dir, "dir", "", "`folder` for bench.json, logs and data; one of its own when empty")
	only := flag.String("rows", "", "beginnings of the `names` of the rows to measure, such as push.redis,latency; all when empty")
	flag.IntVar(&b.rounds, "rounds", 11, "rounds of each row that has some")
	flag.Float64Var(&b.scale, "scale", 1, "less than 1 for fewer orders a round, to try the program rather than the machine")
	flag.BoolVar(&b.full, "full", false, "backlogs of 11 000 orders, however long they take")
	table := flag.String("table", "", "print the table of docs/performance.md from `files` of runs (bench.json, a comma list; later ones win), and measure nothing")
	flag.Parse()
	if *table != "" {
		r := &Report{}
		for file := range strings.SplitSeq(*table, ",") {
			one, err := read(file)
			if err != nil {
				fmt.Fprintln(os.Stderr, "bench:", err)
				return 1
			}
			r.merge(one)
		}
		r.markdown(os.Stdout)
		return 0
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	r, err := b.run(ctx, *only)
	if r != nil {
		r.table(os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	fmt.Fprintln(os.Stderr, "written to", filepath.Join(b.dir, "bench.json"))
	return 0
}

const (
	// groupLimit is how long the rows of a group may take, fullLimit how long with -full.
	groupLimit, fullLimit = 5 * time.Minute, 45 * time.Minute
)

// bench is a run of the program.
type bench struct {
	dir    string
	rounds int
	scale  float64
	full   bool
	say    func(string)
	// seeds keeps the orders of the makers apart.
	seeds atomic.Uint64
}

// groupNames are the groups in the order in which they are measured.
func groupNames() (names []string) {
	for _, b := range budgets() {
		if !slices.Contains(names, b.Group) {
			names = append(names, b.Group)
		}
	}
	return names
}

// chosen are the groups that have rows whose names begin with one of only, a comma list; all when it is empty.
func chosen(only string) (names []string, err error) {
	for want := range strings.SplitSeq(only, ",") {
		found := false
		for _, b := range budgets() {
			if !strings.HasPrefix(b.ID, want) {
				continue
			}
			found = true
			if !slices.Contains(names, b.Group) {
				names = append(names, b.Group)
			}
		}
		if !found {
			return nil, fmt.Errorf("no rows %q; there are %s", want, strings.Join(groupNames(), ", "))
		}
	}
	return names, nil
}

func (b *bench) run(ctx context.Context, only string) (*Report, error) {
	names, err := chosen(only)
	if err != nil {
		return nil, err
	}
	if b.rounds < 1 || b.scale <= 0 {
		return nil, errors.New("-rounds and -scale must be positive")
	}
	if b.dir == "" {
		b.dir, err = os.MkdirTemp("", "bench-")
	} else {
		err = os.MkdirAll(b.dir, 0o700)
	}
	if err != nil {
		return nil, err
	}
	if err := b.build(ctx); err != nil {
		return nil, err
	}
	r := newReport(b.rounds)
	var failed error
	for _, name := range names {
		// A group that fails does not keep the others from being measured.
		failed = errors.Join(failed, b.measure(ctx, name, r))
		if err := errors.Join(r.write(filepath.Join(b.dir, "bench.json")), ctx.Err()); err != nil {
			return r, errors.Join(failed, err)
		}
	}
	return r, failed
}

// build builds what is measured, once for all servers.
func (b *bench) build(ctx context.Context) error {
	b.say("building")
	run, err := procs.New(procs.Options{Dir: b.dir})
	if err != nil {
		return err
	}
	defer run.Close()
	return run.Build(ctx, append(procs.Programs(), program)...)
}

// measure measures the rows of a group.
func (b *bench) measure(ctx context.Context, group string, r *Report) error {
	measure, ok := measures(b)[group]
	if !ok {
		return fmt.Errorf("%s: nothing measures it", group)
	}
	limit := groupLimit
	if b.full {
		limit = fullLimit
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	run := GroupRun{Name: group, Load: load()}
	began := time.Now()
	if err := measure(ctx, r); err != nil {
		return fmt.Errorf("%s: %w", group, err)
	}
	run.Seconds = time.Since(began).Seconds()
	r.Groups = append(r.Groups, run)
	b.say(fmt.Sprintf("%s took %.0f s; %.1f processes wanted to run in the minute before", group, run.Seconds, run.Load))
	// Only failures are worth examining afterwards.
	spent, err := filepath.Glob(filepath.Join(b.dir, group+"-*"))
	for _, dir := range spent {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// measures are the functions of the groups.
func measures(b *bench) map[string]func(context.Context, *Report) error {
	all := map[string]func(context.Context, *Report) error{
		"flood.orders": b.floodOrders, "flood.unreadable": b.floodUnreadable,
		"follow": b.follow, "follow.60000": b.followMany, "workers": b.workers, "idle": b.idle,
		"vmi": b.vmi, "vmi.goods": b.vmiGoods,
	}
	for _, at := range pushPlaces {
		all[at.id] = func(ctx context.Context, r *Report) error { return b.push(ctx, at, r) }
	}
	for _, at := range backlogs {
		all[at.id] = func(ctx context.Context, r *Report) error { return b.backlog(ctx, at, r) }
	}
	for _, at := range idlePlaces {
		all[at.id] = func(ctx context.Context, r *Report) error { return b.idleMany(ctx, at, r) }
	}
	for _, at := range latencyPlaces {
		all[at.id] = func(ctx context.Context, r *Report) error { return b.latency(ctx, at.id, at.many, r) }
	}
	for _, at := range quotaPlaces {
		all[at.id] = func(ctx context.Context, r *Report) error { return b.quota(ctx, at, r) }
	}
	return all
}

// orders is how many a round has, n in full.
func (b *bench) orders(n int) int { return max(8, int(float64(n)*b.scale)) }
