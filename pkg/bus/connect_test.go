package bus_test

import (
	"context"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/server"
)

func TestConnectWaitsForTheServer(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	url := "nats://127.0.0.1:" + strconv.Itoa(port)

	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := bus.Connect(ctx, bus.Options{URL: url, Log: zerolog.Nop()}); err == nil {
		t.Fatal("connected to nothing")
	}

	got := make(chan error, 1)
	go func() {
		b, err := bus.Connect(t.Context(), bus.Options{URL: url, Log: zerolog.Nop()})
		if err == nil {
			err = b.Ready()
			b.Close()
			if b.Ready() == nil {
				t.Error("ready after Close")
			}
		}
		got <- err
	}()
	s, err := server.Start(server.Options{Dir: t.TempDir(), Port: port, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	if err := <-got; err != nil {
		t.Error(err)
	}
}

func TestSecondServerOnTheSamePortSaysWhy(t *testing.T) {
	k := newBroker(t)
	_, err := server.Start(server.Options{Dir: t.TempDir(), Port: k.o.Port, Log: zerolog.Nop()})
	if err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Fatal(err)
	}
}
