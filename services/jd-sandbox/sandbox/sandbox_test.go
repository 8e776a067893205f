package sandbox

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/jdsandbox/control"
)

func TestSampleParses(t *testing.T) {
	cfg, err := jdsandbox.ReadConfig("../sandbox.yaml")
	if err != nil {
		t.Fatal(err)
	}
	jd, err := jdsandbox.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	jd.Close()
}

func TestAFaultyCommandLineIsRefused(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "sandbox.yaml")
	if err := os.WriteFile(bad, []byte("sped: 1\nknobs: {repeat: no}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		args []string
		code int
		want []string
	}{
		{[]string{"-h"}, 0, []string{"-addr", "-config"}},
		{[]string{"-port", "1"}, 2, []string{"-port"}},
		{[]string{"serve"}, 2, []string{"serve"}},
		{[]string{"-config", "no-such.yaml"}, 2, []string{"no-such.yaml"}},
		{[]string{"-config", bad}, 2, []string{"sped: unknown key", "knobs.repeat: "}},
		{[]string{"-addr", "127.0.0.1:x"}, 1, []string{"unknown port"}},
		{[]string{"--healthcheck", "-addr", "127.0.0.1:1"}, 1, []string{"refused"}},
	} {
		var stderr bytes.Buffer
		if code := Main(row.args, &stderr); code != row.code {
			t.Errorf("%v: got %d: %s", row.args, code, &stderr)
		}
		for _, want := range row.want {
			if !strings.Contains(stderr.String(), want) {
				t.Errorf("%v: %q is not in %s", row.args, want, &stderr)
			}
		}
	}
}

// TestRunStops: calls in hand get their answer, delayed ones do not hold it up beyond the grace period.
func TestRunStops(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	at := make(chan net.Addr, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, Settings{
			Addr: "127.0.0.1:0", Log: zerolog.Nop(), Listening: func(a net.Addr) { at <- a },
			Config: jdsandbox.Config{Knobs: jdsandbox.Knobs{Latency: jdsandbox.Range{Min: jdsandbox.Duration(50 * time.Millisecond)}}},
		})
	}()
	addr := (<-at).String()
	var stderr bytes.Buffer
	if code := Main([]string{"--healthcheck", "-addr", addr}, &stderr); code != 0 {
		t.Errorf("its health check ends %d: %s", code, &stderr)
	}
	address := "http://" + addr
	heard := make(chan error, 1)
	go func() {
		res, err := http.Get(address + "/routerjson?method=x&app_key=" + jdsandbox.DefaultAppKey)
		if err == nil {
			res.Body.Close()
		}
		heard <- err
	}()
	c := control.New(address)
	for {
		n, err := c.Counters(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if n.MostInFlight > 0 {
			break
		}
	}
	stop()
	if err := <-heard; err != nil {
		t.Error("the call in hand:", err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
