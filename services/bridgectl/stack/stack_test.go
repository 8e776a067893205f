package stack_test

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"stockbridge/pkg/bus/server"
	"stockbridge/services/bridgectl/stack"
)

func options(dir string) stack.Options {
	return stack.Options{DataDir: dir, NATSPort: server.RandomPort, SandboxAddr: "127.0.0.1:0", NoSync: true, Grace: time.Second, Log: zerolog.Nop()}
}

func TestOneProcessADirectory(t *testing.T) {
	dir := t.TempDir()
	first, err := stack.Start(t.Context(), options(dir))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stack.Start(t.Context(), options(dir)); !errors.Is(err, stack.ErrInUse) {
		t.Errorf("a second one in the same directory: %v", err)
	}
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	again, err := stack.Start(t.Context(), options(dir))
	if err != nil {
		t.Fatalf("after the first one stopped: %v", err)
	}
	if err := again.Stop(); err != nil {
		t.Fatal(err)
	}
}

// A failed start is an error, and stops what was started before: the directory is free again.
func TestWhatCannotBeStarted(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := t.TempDir()
	for name, change := range map[string]func(*stack.Options){
		"the broker's port is taken":  func(o *stack.Options) { o.NATSPort = taken.Addr().(*net.TCPAddr).Port },
		"the sandbox's port is taken": func(o *stack.Options) { o.SandboxAddr = taken.Addr().String() },
		"the probes' port is taken":   func(o *stack.Options) { o.HTTPAddr = taken.Addr().String() },
		"the sandbox has no address":  func(o *stack.Options) { o.SandboxAddr = "nowhere" },
	} {
		o := options(dir)
		change(&o)
		if s, err := stack.Start(t.Context(), o); err == nil || s != nil {
			t.Errorf("%s: started %v", name, s)
		}
	}
	s, err := stack.Start(t.Context(), options(dir))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
}
