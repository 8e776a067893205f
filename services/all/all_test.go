package all_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/bus/server"
	"stockbridge/pkg/worker"
	"stockbridge/services/all"
	"stockbridge/services/bridgectl/stack"
)

var update = flag.Bool("update", false, "write the files that follow from the list of services")

var root = filepath.Join("..", "..")

// golden compares a file that follows from the list of services with what follows today.
func golden(t *testing.T, file string, want []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, want, 0o644); err != nil { //nolint:gosec // part of the repository
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(have), string(want)); diff != "" {
		t.Errorf("%s, see go test ./all -update (-have +want):\n%s", file, diff)
	}
}

// Streams, buckets and consumers are as recorded: a change of the topology shows in the change of this file.
func TestTopologyFile(t *testing.T) {
	_, url := bustest.StartServer(t, all.Bus()...)
	golden(t, filepath.Join("testdata", "topology.json"), bustest.Layout(t, url))
}

// The example in deploy/nats follows from the list of services.
func TestUsersFile(t *testing.T) {
	var users bytes.Buffer
	if err := bus.WriteUsers(&users, all.Bus(), "acme", "bolt"); err != nil {
		t.Fatal(err)
	}
	golden(t, filepath.Join(root, "deploy", "nats", "users.conf"), users.Bytes())
}

func TestServicesHaveNamesOfTheirOwn(t *testing.T) {
	names, consumers := map[string]bool{}, map[string]bus.Consumer{}
	for _, s := range all.Bus() {
		if names[s.Name] {
			t.Errorf("two services are named %s", s.Name)
		}
		names[s.Name] = true
		for _, c := range s.Consumers {
			if _, twice := consumers[c.Name]; twice {
				t.Errorf("two consumers are named %s", c.Name)
			}
			if c.Name != s.Name && !strings.HasPrefix(c.Name, s.Name+"-") {
				t.Errorf("consumer %s does not begin with its service's name, %s", c.Name, s.Name)
			}
			consumers[c.Name] = c
		}
	}
	// A service that oversees another's consumer names it, because it does not import that service.
	for _, s := range all.Bus() {
		for _, c := range s.Oversees {
			if have := consumers[c.Name]; have.Topic != c.Topic || have.Stream != c.Stream {
				t.Errorf("%s oversees %s of %s; the consumer takes %s", s.Name, c.Name, c.Topic, have.Topic)
			}
		}
	}
}

// Each service is a program with a runbook, and every way to run all of them names it.
func TestEveryServiceIsDeployed(t *testing.T) {
	for file, entry := range map[string]string{
		"docker-compose.yml":                  "\n  NAME:\n",
		"deploy/helm/stockbridge/values.yaml": "\n  NAME:\n",
		"deploy/prometheus/rules.yaml":        `absent(stockbridge_bus_connected{service="NAME"})`,
	} {
		text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(file)))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range all.Services() {
			if !strings.Contains(string(text), strings.ReplaceAll(entry, "NAME", s.Name)) {
				t.Errorf("%s does not name %s", file, s.Name)
			}
		}
	}
	for _, s := range all.Services() {
		for _, file := range []string{"main.go", "README.md"} {
			if _, err := os.Stat(filepath.Join("..", s.Name, file)); err != nil {
				t.Error(err)
			}
		}
	}
}

// A worker's program that is not in the list gets no consumers, no permissions and no tests.
func TestEveryWorkerIsListed(t *testing.T) {
	programs, err := filepath.Glob(filepath.Join("..", "*", "main.go"))
	if err != nil || len(programs) == 0 {
		t.Fatalf("programs %v: %v", programs, err)
	}
	for _, file := range programs {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(filepath.Dir(file))
		listed := slices.ContainsFunc(all.Services(), func(s worker.Service) bool { return s.Name == name })
		if worked := strings.Contains(string(text), "worker.Main("); worked != listed {
			t.Errorf("services/%s: runs as a worker %v, listed in services/all %v", name, worked, listed)
		}
	}
}

// `bridgectl up` serves every consumer of every service.
func TestUpServesEveryConsumer(t *testing.T) {
	s, err := stack.Start(t.Context(), stack.Options{DataDir: t.TempDir(), NATSPort: server.RandomPort, NoSync: true, Log: zerolog.Nop(), Grace: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	}()
	if err := s.StartWorkers(); err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, service := range all.Bus() {
		for _, c := range service.Consumers {
			want = append(want, c.Name)
		}
	}
	slices.Sort(want)
	var served []string
	for end := time.Now().Add(20 * time.Second); !slices.Equal(want, served) && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		served = bustest.Served(t, s.NATSURL)
	}
	if diff := cmp.Diff(want, served); diff != "" {
		t.Errorf("served consumers (-want +have):\n%s", diff)
	}
}
