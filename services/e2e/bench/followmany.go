//go:build unix

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"stockbridge/pkg/kind"
	"stockbridge/pkg/kind/order"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/wiring"
	documentv1 "stockbridge/proto/document/v1"
	"stockbridge/services/e2e/procs"
)

const (
	// openOrders of one seller stand still at JD, and are looked up at an interval of openEvery.
	openOrders = 60_000
	openEvery  = 30 * time.Second
	// openKept is how late a look-up may be, of the interval: the poller spreads them by a tenth, and looks at ticks.
	openKept = 1.25
	// openWarm is how long the pollers work off what came due meanwhile, openFor how long they are watched.
	openWarm, openFor = 40 * time.Second, 60 * time.Second
	// seededAtOnce is how many calls to the ledger are under way.
	seededAtOnce = 256

	openPrefix = "OPEN-"
	// openCode is JD's code of an order that was handed to the warehouse.
	openCode = "10014"
)

func followRows() []budget {
	return []budget{
		{ID: "follow.cycle", Group: "follow", What: "calls a cycle for 250 followed orders that stand still", Most: bound(3)},
		{ID: "follow.moved", Group: "follow", What: "calls for the details of an order that moved", Most: bound(1)},
		{ID: "follow.60000.r1", Group: "follow.60000", What: "60 000 open orders of one seller at 30 s: share of the look-ups that are not late, one replica", Least: bound(0.95)},
		{ID: "follow.60000.r2", Group: "follow.60000", What: "the same, two replicas", Least: bound(0.95)},
	}
}

// followMany follows many orders of one seller that stand still.
func (b *bench) followMany(ctx context.Context, report *Report) error {
	s, err := b.stand(ctx, shape{name: "follow.60000", sync: "always", redis: "everysec", latency: 20 * time.Millisecond, open: true})
	if err != nil {
		return err
	}
	defer s.close()
	if _, err := s.seller(ctx, "one", "", plenty()); err != nil {
		return err
	}
	n := max(200, b.orders(openOrders))
	began := time.Now()
	if err := s.seedOpen(ctx, "one", n); err != nil {
		return err
	}
	b.say(fmt.Sprintf("follow.60000: %d orders in the ledger after %.0f s", n, time.Since(began).Seconds()))
	of := map[string]*procs.Process{}
	for i, wait := range []time.Duration{openWarm, openWarm / 2} {
		name := fmt.Sprintf("poller-%d", i+1)
		if i == 0 {
			if err := s.reset(ctx, n); err != nil {
				return err
			}
		}
		p, err := s.Worker(ctx, procs.StatusPoller, name, "POLL_OPEN="+openEvery.String(), "LOG_LEVEL=error")
		if err != nil {
			return err
		}
		of[name] = p
		if err := rest(ctx, scaledDown(wait, b.scale)); err != nil {
			return err
		}
		if err := s.reset(ctx, 0); err != nil {
			return err
		}
		before, err := spent(of)
		if err != nil {
			return err
		}
		watch := scaledDown(openFor, b.scale)
		if err := rest(ctx, watch); err != nil {
			return err
		}
		after, err := spent(of)
		if err != nil {
			return err
		}
		seen, err := s.looked(ctx)
		if err != nil {
			return err
		}
		detail := map[string]float64{
			"calls /s": float64(seen.Calls) / watch.Seconds(), "calls needed /s": float64(n) / 100 / openEvery.Seconds(),
			"orders /s": float64(seen.Looks) / watch.Seconds(), "most overdue s": max(0, seen.Longest-openEvery.Seconds()),
		}
		for name := range of {
			detail[name+" % of a core"] = 100 * (after[name] - before[name]).Seconds() / watch.Seconds()
		}
		how := fmt.Sprintf("%d orders over %.0f s, an interval of %v, late is later than %.1f s, JD answers in 20 ms, no limit by quota", n, watch.Seconds(), openEvery, openKept*openEvery.Seconds())
		if err := report.add(fmt.Sprintf("follow.60000.r%d", i+1), how, []float64{seen.kept()}, detail); err != nil {
			return err
		}
		b.say(fmt.Sprintf("follow.60000: %s: kept %.2f, %.1f calls a second", replicas(i+1), seen.kept(), detail["calls /s"]))
	}
	return nil
}

// seedOpen puts n accepted orders into the ledger whose first status was published, due over the coming interval.
func (s *stand) seedOpen(ctx context.Context, seller string, n int) error {
	store, err := wiring.Ledger(ctx, s.Redis.URL(), nil)
	if err != nil {
		return err
	}
	defer store.Close()
	now := time.Now()
	if err := eachOf(ctx, n, func(ctx context.Context, i int) error {
		claim := ledger.ClaimRequest{
			Key: order.Terms.Key(seller, openNo(i)), Hash: "seeded", Owner: openNo(i), Group: "SO-" + openNo(i), Items: []string{"1"}, Revision: 1,
			Shop: "S01", Warehouse: "W01", StreamTime: now, AuditedAt: now, First: true,
		}
		if _, err := store.Claim(ctx, claim); err != nil {
			return err
		}
		return store.Accept(ctx, claim, openNumber(openNo(i)), nil, now)
	}); err != nil {
		return err
	}
	state := kind.Stored(order.State{Seen: kind.Seen{Status: documentv1.Status_STATUS_RECEIVED, Code: openCode, StatusAt: now}})
	return eachOf(ctx, n, func(ctx context.Context, i int) error {
		e, err := store.Get(ctx, order.Terms.Key(seller, openNo(i)))
		if err != nil {
			return err
		}
		due := now.Add(openEvery * time.Duration(i) / time.Duration(n))
		return store.Follow(ctx, e, ledger.Accepted, ledger.Following{Due: due, Phase: kind.PhaseOpen, State: state})
	})
}

// eachOf calls do for 0..n-1, many at a time.
func eachOf(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	next := make(chan int)
	for range seededAtOnce {
		group.Go(func() error {
			for i := range next {
				if err := do(ctx, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	group.Go(func() error {
		defer close(next)
		for i := range n {
			select {
			case next <- i:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	return group.Wait()
}

func openNo(i int) string { return fmt.Sprintf("%s%06d", openPrefix, i) }

// openNumber is JD's number of a seeded order.
func openNumber(no string) string { return "ESL4418" + strings.TrimPrefix(no, openPrefix) }

// lookups is what the reference JD saw of look-ups since the last reset.
type lookups struct {
	Calls, Looks int
	// Kept look-ups came in time; of Missed ones, each interval without a look-up counts.
	Kept, Missed int
	// Longest is the longest time without a look-up of an order, s.
	Longest float64
}

func (l lookups) kept() float64 { return float64(l.Kept) / float64(max(1, l.Kept+l.Missed)) }

// openJD answers list calls: every order that is asked for stands still.
type openJD struct {
	mu   sync.Mutex
	last map[string]time.Time
	lookups
}

// reset forgets the counts. With orders given it also expects look-ups of so many orders from now on.
func (j *openJD) reset(orders int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lookups = lookups{}
	if orders == 0 {
		return
	}
	j.last = map[string]time.Time{}
	now := time.Now()
	for i := range orders {
		j.last[openNo(i)] = now
	}
}

// look counts a look-up of no, or the end of the watch.
func (l *lookups) look(gap time.Duration, end bool) {
	late := time.Duration(float64(openEvery) * openKept)
	l.Longest = max(l.Longest, gap.Seconds())
	switch {
	case gap > late:
		l.Missed += int(gap / late)
	case !end:
		l.Kept++
	}
}

// seen are the counts so far, with what is late now.
func (j *openJD) seen() lookups {
	j.mu.Lock()
	defer j.mu.Unlock()
	all := j.lookups
	for _, at := range j.last {
		all.look(time.Since(at), true)
	}
	return all
}

// list answers a list call for the orders of a comma list.
func (j *openJD) list(numbers string) string {
	now := time.Now()
	var rows strings.Builder
	j.mu.Lock()
	defer j.mu.Unlock()
	j.Calls++
	for i, no := range strings.Split(numbers, ",") {
		at, known := j.last[no]
		if known {
			j.look(now.Sub(at), false)
			j.Looks++
		}
		j.last[no] = now
		if i > 0 {
			rows.WriteByte(',')
		}
		fmt.Fprintf(&rows, `{"isvUUID":%q,"eclpSoNo":%q,"mainStatus":%q}`, no, openNumber(no), openCode)
	}
	return `{"jingdong_eclp_order_ext_queryOrder_responce":{"code":"0","queryorder_result":[` + rows.String() + `]}}`
}

// control answers the bench's own questions.
func (j *openJD) control(w http.ResponseWriter, r *http.Request) bool {
	switch r.URL.Path {
	case "/reset":
		orders, err := strconv.Atoi(r.URL.Query().Get("orders"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return true
		}
		j.reset(orders)
	case "/seen":
		_ = json.NewEncoder(w).Encode(j.seen())
	default:
		return false
	}
	return true
}

// openOf is the comma list that a list call asks for.
func openOf(r *http.Request) (string, error) {
	if err := r.ParseForm(); err != nil {
		return "", err
	}
	var asked struct {
		IsvUUID string `json:"isvUUID"`
	}
	return asked.IsvUUID, json.Unmarshal([]byte(r.Form.Get("360buy_param_json")), &asked)
}

// reset forgets what the reference JD saw.
func (s *stand) reset(ctx context.Context, orders int) error {
	return s.askJD(ctx, fmt.Sprintf("/reset?orders=%d", orders), nil)
}

// looked is what the reference JD saw since.
func (s *stand) looked(ctx context.Context) (l lookups, err error) {
	return l, s.askJD(ctx, "/seen", &l)
}

func (s *stand) askJD(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.jd.HTTP+path, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || into == nil {
		return err
	}
	return json.Unmarshal(body, into)
}
