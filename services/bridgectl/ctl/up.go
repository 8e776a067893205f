package ctl

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/rs/zerolog"
	"golang.org/x/term"

	"stockbridge/services/bridgectl/stack"
)

type upCmd struct {
	DataDir     string `type:"path" default:"${data}" placeholder:"DIR" help:"Where everything is kept (./data). One process at a time."`
	NATSPort    int    `name:"nats-port" default:"4222" placeholder:"PORT" help:"Port of the embedded broker (4222)."`
	SandboxAddr string `default:"127.0.0.1:18080" placeholder:"ADDR" help:"Where the sandbox plays the warehouse (127.0.0.1:18080); off for none."`
}

func (upCmd) Help() string {
	return `Starts the broker, the ledger, the workers and the sandbox in this process and prints their addresses. While no other seller is
set up, a seller named demo uses the sandbox. Ctrl-C finishes what is in hand and stops.

NATS_URL and REDIS_URL replace the embedded ones. TOKEN_KEY or TOKEN_KEY_FILE seal tokens that we refresh; without
them a key is generated and kept in the data folder (secrets/token-key). --http-addr, HTTP_ADDR: health, readiness and metrics
(127.0.0.1:8080; off for none). PUSH_… and POLL_…: the workers' own settings, see deploy/env. --log-level, LOG_LEVEL: trace, debug, info, warn or error (info).`
}

func (c upCmd) Run(ctx context.Context, a *app) error {
	level, err := zerolog.ParseLevel(a.LogLevel)
	if err != nil {
		return misused("--log-level: want trace, debug, info, warn or error, not %q", a.LogLevel)
	}
	key, err := a.givenTokenKey()
	if err != nil {
		return err
	}
	trust, err := a.trustOf(c.DataDir)
	if err != nil {
		return err
	}
	err = stack.Run(ctx, stack.Options{
		DataDir: c.DataDir, NATSURL: a.NATSURL, RedisURL: a.RedisURL, TokenKey: key, Trust: trust, NATSPort: c.NATSPort,
		HTTPAddr: a.HTTPAddr, SandboxAddr: c.SandboxAddr, Log: a.runLog(level),
	}, a.Out)
	switch {
	case errors.Is(err, stack.ErrInUse):
		return hint(err, "stop it, or let this one work in another with --data-dir")
	case err != nil && strings.Contains(err.Error(), "address already in use"):
		return hint(err, "is another one running? --nats-port, --http-addr and --sandbox-addr move this one")
	}
	return err
}

// runLog is the log of what runs in this process: text for a terminal, else JSON lines.
func (a *app) runLog(level zerolog.Level) zerolog.Logger {
	out := a.Err
	if f, ok := a.Err.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		out = zerolog.ConsoleWriter{Out: a.Err, TimeFormat: "15:04:05.000"}
	}
	return zerolog.New(out).Level(level).With().Timestamp().Logger()
}
