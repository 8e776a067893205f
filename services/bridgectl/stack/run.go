package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/worker"
)

// Run is `bridgectl up`: it starts everything, sets the demo seller up when there is no seller yet, prints all
// addresses to out, and serves until ctx ends.
func Run(ctx context.Context, o Options, out io.Writer) error {
	began := time.Now()
	s, err := Start(ctx, o)
	if err != nil {
		return err
	}
	stopped := false
	defer func() {
		if !stopped {
			_ = s.Stop() // the error that led here is the one to report
		}
	}()
	if err := s.demo(ctx); err != nil {
		return s.fullDisk(err)
	}
	if err := s.StartWorkers(); err != nil {
		return err
	}
	s.sayWhere(out, time.Since(began))
	select {
	case <-ctx.Done():
		fmt.Fprintln(out, "stopping: what is in hand is finished first …")
	case err := <-s.Failed():
		err = s.fullDisk(err)
		if errors.Is(err, ErrDiskFull) {
			stopped = true
			s.stopHastily()
		}
		return err
	}
	stopped = true
	if err := s.Stop(); err != nil {
		return err
	}
	fmt.Fprintln(out, "stopped; everything is kept in "+o.DataDir)
	return nil
}

// demo keeps the demo seller pointed at the sandbox. If other sellers are set up and the demo is not, it changes
// nothing.
func (s *Stack) demo(ctx context.Context) error {
	if s.SandboxURL == "" {
		return nil
	}
	if _, known := s.Sellers.Get(DemoSeller); !known && len(s.Sellers.All()) > 0 {
		return nil
	}
	setup, err := DemoSetup(s.o.DataDir, s.SandboxURL)
	if err != nil {
		return err
	}
	if now, known := s.Sellers.Get(DemoSeller); known {
		// The operator's changes stay; only the sandbox's address and credentials may differ.
		kept := proto.CloneOf(now.Setup)
		for _, a := range kept.Accounts {
			if a.Name == setup.Accounts[0].Name {
				a.Url, a.AppSecret, a.AccessToken = GatewayURL(s.SandboxURL), setup.Accounts[0].AppSecret, setup.Accounts[0].AccessToken
			}
		}
		setup = kept
	}
	return s.Apply(ctx, setup)
}

func (s *Stack) sayWhere(out io.Writer, took time.Duration) {
	where := func(name, at string) {
		if at != "" {
			fmt.Fprintf(out, "  %-10s %s\n", name, at)
		}
	}
	fmt.Fprintf(out, "Stockbridge runs (%.1f s). Ctrl-C stops it.\n", took.Seconds())
	where("NATS", natsAt(s.NATSURL, s.o.NATSURL))
	where("ledger", ledgerAt(s.o.RedisURL))
	if s.HTTPAt != "" {
		where("health", "http://"+s.HTTPAt+"/readyz")
		where("metrics", "http://"+s.HTTPAt+"/metrics")
	}
	if s.SandboxURL != "" {
		where("sandbox", fmt.Sprintf("%s plays JD (%g times as fast); %s/_sandbox/documents shows what it has", s.SandboxURL, s.speed(), s.SandboxURL))
	}
	where("sellers", fmt.Sprintf("%d, see `bridgectl seller ls`", len(s.Sellers.All())))
	where("data", s.o.DataDir)
}

func (s *Stack) speed() float64 {
	_, speed := s.JD.Clock()
	return speed
}

// natsAt never prints a given address, which may hold a password.
func natsAt(own string, given worker.Secret) string {
	if given != "" {
		return "as NATS_URL says"
	}
	return own + " (embedded)"
}

func ledgerAt(redis worker.Secret) string {
	if redis == "" {
		return "JetStream key-value (embedded; REDIS_URL uses Redis)"
	}
	return "Redis"
}
