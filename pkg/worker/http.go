package worker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Probes answers GET /healthz (the process serves), /readyz (everything it depends on answers) and /metrics.
type Probes struct {
	// Ready is called at most once every readyFor, or notReadyFor, however often probes come.
	Ready func(ctx context.Context) error
	// Metrics are what /metrics shows.
	Metrics prometheus.Gatherer

	mu    sync.Mutex
	asked time.Time
	last  error
}

const (
	// readyFor is how long an answer of Ready is reused.
	readyFor = time.Second
	// notReadyFor is the same for a bad answer: a start should not wait for this too.
	notReadyFor = 100 * time.Millisecond
	// readyTimeout is how long Ready may take; it stays below the usual timeout of probes (Kubernetes: 1 s by
	// default, our chart says 5 s).
	readyTimeout = 3 * time.Second
)

// ServeHTTP answers the probes.
func (p *Probes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/healthz":
		fmt.Fprintln(w, "ok")
	case "/readyz":
		if err := p.ready(r.Context()); err != nil {
			http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	case "/metrics":
		promhttp.HandlerFor(p.Metrics, promhttp.HandlerOpts{}).ServeHTTP(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (p *Probes) ready(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	goodFor := readyFor
	if p.last != nil {
		goodFor = notReadyFor
	}
	if p.asked.IsZero() || time.Since(p.asked) > goodFor {
		// The answer is shared: it does not end with the first caller.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyTimeout)
		defer cancel()
		p.last = p.Ready(ctx)
		p.asked = time.Now()
	}
	return p.last
}

// Listen serves h on addr until stop is called, and returns the address. addr "off" serves nothing.
func Listen(addr string, h http.Handler) (at string, stop func(), err error) {
	if addr == httpOff {
		return httpOff, func() {}, nil
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return "", nil, fmt.Errorf("HTTP_ADDR: %w", err)
	}
	server := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			panic(err) // the listener broke: nobody could see that the process lives
		}
	}()
	return listener.Addr().String(), func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			_ = server.Close()
		}
		<-ended
	}, nil
}
