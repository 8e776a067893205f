// Package sandbox runs jdsandbox on a port. It adds flags, signals and a listener; everything else is in jdsandbox.
package sandbox

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"stockbridge/pkg/healthcheck"
	"stockbridge/pkg/jdsandbox"
)

const (
	headerLimit = 10 * time.Second
	idleLimit   = 2 * time.Minute
	// grace is how long calls in hand may take when it stops.
	grace = 2 * time.Second
)

// Settings is what Run needs.
type Settings struct {
	// Addr to listen on; port 0 means any free one.
	Addr   string
	Config jdsandbox.Config
	Log    zerolog.Logger
	// Listening is called with the address once calls are accepted. May be nil.
	Listening func(addr net.Addr)
}

// Main is the command: it returns 0 after a signal to stop or if -healthcheck finds it alive, 2 for faulty flags or
// settings, 1 for everything else.
func Main(args []string, stderr io.Writer) int {
	flags := flag.NewFlagSet("jd-sandbox", flag.ContinueOnError)
	flags.SetOutput(stderr)
	addr := flags.String("addr", "127.0.0.1:18080", "`address` to listen on, such as :18080")
	file := flags.String("config", "", "YAML `file` with credentials, master data and knobs; without one, app "+jdsandbox.DefaultAppKey+", any shop, any warehouse")
	health := flags.Bool("healthcheck", false, "ask the sandbox that runs here on -addr whether it lives: ends 0 or 1")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "jd-sandbox: unexpected %q\n", flags.Arg(0))
		return 2
	}
	if *health {
		if err := healthcheck.Alive(context.Background(), *addr, "/_sandbox/clock"); err != nil {
			fmt.Fprintf(stderr, "jd-sandbox: %v\n", err)
			return 1
		}
		return 0
	}
	var cfg jdsandbox.Config
	if *file != "" {
		var err error
		if cfg, err = jdsandbox.ReadConfig(*file); err != nil {
			fmt.Fprintf(stderr, "jd-sandbox: %v\n", err)
			return 2
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := zerolog.New(stderr).With().Timestamp().Str("service", "jd-sandbox").Logger()
	if err := Run(ctx, Settings{Addr: *addr, Config: cfg, Log: log}); err != nil {
		log.Error().Err(err).Msg("stopped")
		return 1
	}
	return 0
}

// Run serves until ctx ends, then finishes the calls in hand within the grace period and closes the state.
func Run(ctx context.Context, s Settings) (err error) {
	jd, err := jdsandbox.New(s.Config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, jd.Close()) }()
	listener, err := net.Listen("tcp", s.Addr)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: jd, ReadHeaderTimeout: headerLimit, IdleTimeout: idleLimit}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(listener) }()
	s.Log.Info().Str("gateway", "http://"+listener.Addr().String()+"/routerjson").Str("state", s.Config.State).Msg("serving")
	if s.Listening != nil {
		s.Listening(listener.Addr())
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if srv.Shutdown(last) != nil {
		return srv.Close() // the calls that are still waiting are delayed on purpose
	}
	s.Log.Info().Msg("stopped")
	return nil
}
