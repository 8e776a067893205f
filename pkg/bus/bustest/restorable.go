package bustest

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rs/zerolog"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/server"
)

// Restorable is a server whose data can be restored from a copy. It keeps its address.
type Restorable struct {
	t testing.TB
	o server.Options
	s *server.Server
}

// StartRestorable starts one with the topology applied. It ends with the test.
func StartRestorable(t testing.TB, services ...bus.Service) *Restorable {
	t.Helper()
	k := &Restorable{t: t, o: server.Options{Dir: filepath.Join(t.TempDir(), "nats"), Port: server.RandomPort, Log: zerolog.Nop()}}
	k.start()
	t.Cleanup(func() { k.s.Stop() })
	at, err := url.Parse(k.URL())
	if err != nil {
		t.Fatal(err)
	}
	if k.o.Port, err = strconv.Atoi(at.Port()); err != nil {
		t.Fatal(err)
	}
	b := Connect(t, k.URL())
	if _, err := b.Apply(t.Context(), bus.Topology{Replicas: 1, Services: services}); err != nil {
		t.Fatal(err)
	}
	return k
}

// URL is where clients connect.
func (k *Restorable) URL() string { return k.s.URL() }

// Copy restarts it and returns a folder with a copy of its data.
func (k *Restorable) Copy() string {
	k.t.Helper()
	k.s.Stop()
	to := filepath.Join(k.t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(k.o.Dir)); err != nil {
		k.t.Fatal(err)
	}
	k.start()
	return to
}

// Restore restarts it on a copy.
func (k *Restorable) Restore(from string) {
	k.t.Helper()
	k.s.Stop()
	if err := errors.Join(os.RemoveAll(k.o.Dir), os.CopyFS(k.o.Dir, os.DirFS(from))); err != nil {
		k.t.Fatal(err)
	}
	k.start()
}

func (k *Restorable) start() {
	k.t.Helper()
	s, err := server.Start(k.o)
	if err != nil {
		k.t.Fatal(err)
	}
	k.s = s
}
