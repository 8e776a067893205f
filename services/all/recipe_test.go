package all_test

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const counterMain = `// Command parcel-counter counts parcels; see README.md.
package main

import (
	"stockbridge/pkg/worker"
	"stockbridge/services/parcel-counter/counter"
)

func main() { worker.Main(counter.Service()) }
`

const counterPackage = `// Package counter counts parcels.
package counter

import (
	"context"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/worker"
	orderv1 "stockbridge/proto/order/v1"
)

// Name is the service's name and that of its consumer.
const Name = "parcel-counter"

// Config is the settings of the service.
type Config struct {
	Slots int ` + "`" + `env:"COUNT_SLOTS" envDefault:"4" help:"parcels counted at a time"` + "`" + `
}

// Service is the worker as a row.
func Service() worker.Service {
	return worker.Define(worker.Service{
		Service: bus.Service{Name: Name, Consumers: []bus.Consumer{bus.ConsumerOf(Name, event.OrderShipped)}},
	}, Run)
}

// Run serves until ctx ends and its handlers have finished.
func Run(ctx context.Context, s *worker.Shell, c Config) error {
	serving := s.Serving(Name)
	serving.Slots = c.Slots
	return bus.Serve(ctx, s.Bus, event.OrderShipped, serving, func(context.Context, *bus.Delivery, *orderv1.Shipped) ([]event.Event, error) {
		return nil, nil
	}, nil)
}
`

// A worker that is added to a copy of this repository by the recipe in CONTRIBUTING.md builds, is laid out, has a user,
// runs in `bridgectl up` and passes the tests of its settings and deployment. No other file is touched.
func TestTheRecipeForAWorker(t *testing.T) {
	t.Parallel()
	c := copyOfTree(t)
	const name = "parcel-counter"
	c.write("services/"+name+"/main.go", counterMain)
	c.write("services/"+name+"/README.md", "# parcel-counter\n\nCounts parcels.\n")
	c.write("services/"+name+"/counter/counter.go", counterPackage)
	c.after("services/all/all.go", `	"stockbridge/services/order-pusher/pusher"`, `	"stockbridge/services/parcel-counter/counter"`)
	c.after("services/all/all.go", `		poller.Service(),`, `		counter.Service(),`)
	common, _, found := strings.Cut(c.read("deploy/env/reconciler.env"), "\n# The age from which")
	if !found {
		t.Fatal("deploy/env/reconciler.env does not begin with the settings of all services")
	}
	c.write("deploy/env/"+name+".env", strings.ReplaceAll(common, "reconciler", name)+"\n# How many parcels are counted at a time.\n#COUNT_SLOTS=4\n")
	c.after("docker-compose.yml", "    build: { <<: *build, args: { SERVICE: vmi-ingester } }", "\n  parcel-counter:\n    <<: *worker\n    build: { <<: *build, args: { SERVICE: parcel-counter } }")
	c.write("deploy/helm/stockbridge/values.yaml", copyBlock(t, c.read("deploy/helm/stockbridge/values.yaml"), "reconciler", name))
	c.after("deploy/prometheus/rules.yaml", `            or absent(stockbridge_bus_connected{service="reconciler"})`, `            or absent(stockbridge_bus_connected{service="parcel-counter"})`)

	c.goes("build", "-o", os.DevNull, "./"+name)
	c.goes("test", "./all", "-skip", "^TestTheRecipe", "-update")
	c.holds("services/all/testdata/topology.json", `"parcel-counter": {`)
	c.holds("services/all/testdata/topology.json", `"parcel-counter-retry": {`)
	c.holds("deploy/nats/users.conf", `user: "parcel-counter", password: $PARCEL_COUNTER_PASSWORD`)
	c.follows("A new worker", name)
}

// An event that is added to a copy of this repository by the recipe is laid out, may be published by workers and read by
// its ERP. (TestEveryFactIsShown holds bridgectl to the same table.) Its message is an existing one here, so that no code
// has to be generated.
func TestTheRecipeForAnEvent(t *testing.T) {
	t.Parallel()
	c := copyOfTree(t)
	c.after("pkg/event/event.go", `	OrderDelivered     = Topic[*orderv1.Delivered]{"order.delivered"}`, `	OrderLost          = Topic[*orderv1.Delivered]{"order.lost"}`)
	c.after("pkg/event/event.go", `	fact(OrderDelivered), fact(OrderReturning), fact(OrderCancelled),`, `	fact(OrderLost),`)
	c.after("docs/events.md", "| `order.delivered` | the buyer has all that left; once per order | – |", "| `order.lost` | the carrier lost it | – |")

	c.goes("test", "./all", "-run", "^(TestUsersFile|TestTopologyFile)$", "-update")
	c.goes("test", "./e2e/rules", "-run", "^TestEventsAreExplained$")
	c.holds("services/all/testdata/topology.json", `"order.lost.*"`)
	c.holds("deploy/nats/users.conf", `"order.lost.acme"`)
	c.follows("A new event", "order")
}

// treeCopy is a copy of this repository.
type treeCopy struct {
	t       *testing.T
	dir     string
	touched map[string]bool
}

func copyOfTree(t *testing.T) *treeCopy {
	t.Helper()
	c := &treeCopy{t: t, dir: t.TempDir(), touched: map[string]bool{}}
	for _, part := range []string{"proto", "pkg", "services", "deploy", "docs", "docker-compose.yml", "go.work", "go.work.sum", "README.md"} {
		err := filepath.WalkDir(filepath.Join(root, part), func(file string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(root, file)
			to := filepath.Join(c.dir, rel)
			switch {
			case err != nil:
				return err
			case d.IsDir() && (d.Name() == "node_modules" || d.Name() == "bin"):
				return fs.SkipDir
			case d.IsDir():
				return os.MkdirAll(to, 0o755)
			case d.Type()&fs.ModeSymlink != 0:
				target, err := os.Readlink(file)
				if err != nil {
					return err
				}
				return os.Symlink(target, to)
			case !d.Type().IsRegular():
				return nil
			}
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			return os.WriteFile(to, text, 0o644)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (c *treeCopy) read(file string) string {
	c.t.Helper()
	text, err := os.ReadFile(filepath.Join(c.dir, filepath.FromSlash(file)))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(text)
}

func (c *treeCopy) write(file, text string) {
	c.t.Helper()
	c.touched[file] = true
	to := filepath.Join(c.dir, filepath.FromSlash(file))
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(to, []byte(text), 0o644); err != nil {
		c.t.Fatal(err)
	}
}

// after writes more into a file, behind a line of it.
func (c *treeCopy) after(file, line, more string) {
	c.t.Helper()
	text := c.read(file)
	if strings.Count(text, line+"\n") != 1 {
		c.t.Fatalf("%s: want this line once: %s", file, line)
	}
	c.write(file, strings.Replace(text, line+"\n", line+"\n"+more+"\n", 1))
}

// copyBlock adds a copy of a block of a YAML file, two spaces deep, under another name.
func copyBlock(t *testing.T, text, name, as string) string {
	t.Helper()
	block := regexp.MustCompile(`(?m)^  ` + name + `:\n(?:    .*\n)+`).FindString(text)
	if block == "" {
		t.Fatalf("no block %s", name)
	}
	return strings.Replace(text, block, block+strings.ReplaceAll(block, name, as), 1)
}

// goes runs a go command in the copy's module of services. It builds as procs does, without paths, so that packages
// that did not change come from the build cache.
func (c *treeCopy) goes(verb string, args ...string) {
	c.t.Helper()
	cmd := exec.CommandContext(c.t.Context(), "go", append([]string{verb, "-trimpath"}, args...)...)
	cmd.Dir, cmd.Env = filepath.Join(c.dir, "services"), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("go %s %s: %v\n%s", verb, strings.Join(args, " "), err, out)
	}
}

func (c *treeCopy) holds(file, text string) {
	c.t.Helper()
	if !strings.Contains(c.read(file), text) {
		c.t.Errorf("%s has no %s", file, text)
	}
}

// follows compares the files that were touched with those that the recipe names: NAME stands for name.
func (c *treeCopy) follows(recipe, name string) {
	c.t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "CONTRIBUTING.md"))
	if err != nil {
		c.t.Fatal(err)
	}
	_, text, found := bytes.Cut(text, []byte("- **"+recipe+"**"))
	if !found {
		c.t.Fatalf("CONTRIBUTING.md has no recipe %q", recipe)
	}
	text, _, _ = bytes.Cut(text, []byte("\n- **"))
	byHand, _, _ := bytes.Cut(text, []byte("Generated:"))
	var named []string
	for _, m := range regexp.MustCompile("`([^`]+)`").FindAllSubmatch(byHand, -1) {
		if file := strings.ReplaceAll(string(m[1]), "NAME", name); strings.Contains(file, "/") || path.Ext(file) == ".yml" {
			named = append(named, file)
		}
	}
	for _, file := range named {
		if !slices.ContainsFunc(sortedKeys(c.touched), func(touched string) bool { return matches(file, touched) }) && !strings.HasPrefix(file, "proto/") {
			c.t.Errorf("the recipe %q names %s, which was not needed", recipe, file)
		}
	}
	for file := range c.touched {
		if !slices.ContainsFunc(named, func(of string) bool { return matches(of, file) }) {
			c.t.Errorf("the recipe %q does not name %s", recipe, file)
		}
	}
	c.t.Logf("%s: %d files by hand: %s", recipe, len(c.touched), strings.Join(sortedKeys(c.touched), ", "))
}

// matches reports whether a recipe's path names the file: a path that ends in / names what is below it.
func matches(named, file string) bool {
	return named == file || strings.HasSuffix(named, "/") && strings.HasPrefix(file, named)
}

func sortedKeys(m map[string]bool) (keys []string) {
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
