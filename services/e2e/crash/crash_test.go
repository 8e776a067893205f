package crash

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { os.Exit(clean(m.Run())) }

// clean returns the exit code: 1 too when goroutines are left. A worker that crashed in the pause before it publishes
// again ends after that pause, and one that hears nothing from the broker when its handler times out (40 s): goleak's
// own time limit is half a second.
func clean(code int) int {
	var left error
	for range 90 {
		if left = goleak.Find(); left == nil {
			return code
		}
	}
	fmt.Fprintln(os.Stderr, left)
	return max(code, 1)
}

// everything tries all, not only the sample of `make ci`.
var everything = flag.Bool("everything", false, "try every crash point, each also twice in a row")

// only restricts the scenarios.
var only = flag.String("scenario", "", "only scenarios whose name contains this")

// lanesEach is how many lanes of each ledger run concurrently: an attempt mostly waits for the servers' answers.
const lanesEach = 3

// job is one attempt to be made.
type job struct {
	s     *scenario
	stop  point
	times int
}

func (j job) String() string {
	if j.times == 0 {
		return j.s.name + ", undisturbed"
	}
	return fmt.Sprintf("%s, crash at %q, %d times", j.s.name, j.stop, j.times)
}

// tapped are calls to the ledger and the warehouse that must be steps. Their wrappers embed what they wrap, so a method
// that was renamed would silently be a step no longer.
var tapped = []string{
	"claim", "accept", "refuse", "mark unknown", "mark rejected", "mark not found", "release", "resend", "take due", "postpone", "follow",
	"count", "uncount", "forget", "lease", "unlease", "send", "find", "compare", "read",
}

func TestNoCrashBreaksAPromise(t *testing.T) {
	var mu sync.Mutex
	var tried, crashes, broken, left int
	steps := map[string]bool{}
	for _, kind := range []string{"kv", "redis"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			jobs := enumerate(t, kind, steps, &mu)
			if !*everything {
				all := len(jobs)
				jobs = sample(jobs)
				left += all - len(jobs)
			}
			next := make(chan job, len(jobs))
			for _, j := range jobs {
				next <- j
			}
			close(next)
			var lanes sync.WaitGroup
			for range lanesEach {
				lanes.Go(func() {
					l := newLane(t, kind)
					for j := range next {
						r := l.run(t.Context(), t, j.s, j.stop, j.times)
						mu.Lock()
						tried++
						crashes += r.crashes
						if r.err != nil {
							broken++
							if broken <= 10 {
								t.Errorf("%s: %v\n%s", j, r.err, trail(r))
							}
							l = newLane(t, kind)
						}
						mu.Unlock()
					}
				})
			}
			lanes.Wait()
		})
	}
	t.Cleanup(func() {
		fmt.Printf("crash points: %d of %d tried (%d steps × %d scenarios × kv, redis; %d crashes happened), %d broken\n",
			tried, tried+left, len(steps), len(scenarios()), crashes, broken)
		if crashes < tried {
			t.Errorf("only %d crashes in %d attempts: what the workers do differs from run to run", crashes, tried)
		}
		for _, name := range tapped {
			if !steps["before "+name] && *only == "" {
				t.Errorf("no worker was stopped before %q: does its wrapper still override the method?", name)
			}
		}
	})
}

// enumerate runs each scenario undisturbed and lists a crash for each occurrence of each step on the way, and the same
// again in the next worker.
func enumerate(t *testing.T, kind string, steps map[string]bool, mu *sync.Mutex) (jobs []job) {
	t.Helper()
	l := newLane(t, kind)
	for _, s := range scenarios() {
		if !strings.Contains(s.name, *only) {
			continue
		}
		r := l.run(t.Context(), t, s, point{}, 0)
		if r.err != nil {
			t.Fatalf("%s, undisturbed: %v\n%s", s.name, r.err, trail(r))
		}
		var names []string
		for name := range r.steps {
			names = append(names, name)
		}
		slices.Sort(names)
		mu.Lock()
		for _, name := range names {
			steps[name] = true
			for n := range r.steps[name] {
				jobs = append(jobs, job{s, point{name, n + 1}, 1})
			}
			jobs = append(jobs, job{s, point{name, 1}, 2})
		}
		mu.Unlock()
	}
	return jobs
}

// sampleSize is how many attempts of each ledger every CI run makes: a quarter of a minute of two cores, a minute with
// -race.
const sampleSize = 75

// sample takes each step of a kind once, and of the others every nth.
func sample(jobs []job) []job {
	var taken, others []job
	seen := map[string]bool{}
	for _, j := range jobs {
		if j.times == 1 && !seen[j.stop.step] {
			seen[j.stop.step] = true
			taken = append(taken, j)
		} else {
			others = append(others, j)
		}
	}
	room := max(0, sampleSize-len(taken))
	for i := range min(room, len(others)) {
		taken = append(taken, others[i*len(others)/room])
	}
	return taken
}

// trail is what each worker of an attempt did.
func trail(r result) string {
	var text strings.Builder
	for i, steps := range r.trails {
		fmt.Fprintf(&text, "process %d: %s\n", i+1, strings.Join(steps, " · "))
	}
	return text.String()
}
