package main

import (
	"bytes"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"stockbridge/pkg/bus/server"
	"stockbridge/services/bridgectl/ctl"
)

// heard collects a command's output; it can be read while the command runs.
type heard struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (h *heard) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.Write(p)
}

func (h *heard) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.String()
}

// A job of the deployment may start long before the broker does.
func TestTopologyApplyWaitsForTheBroker(t *testing.T) {
	t.Parallel()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().(*net.TCPAddr)
	_ = free.Close()
	var said heard
	code := make(chan int, 1)
	go func() {
		code <- ctl.Run(t.Context(), []string{"bridgectl", "topology", "apply", "--wait", "--nats-url", "nats://" + addr.String()},
			ctl.Streams{In: strings.NewReader(""), Out: &said, Err: &said})
	}()
	for end := time.Now().Add(30 * time.Second); !strings.Contains(said.String(), "still waiting"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not say that it waits: %s", said.String())
		}
	}
	s, err := server.Start(server.Options{Dir: t.TempDir(), Port: addr.Port, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	if got := <-code; got != 0 || !strings.Contains(said.String(), "order-pusher") {
		t.Errorf("it ended %d and said\n%s", got, said.String())
	}
}
