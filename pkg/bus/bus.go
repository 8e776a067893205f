package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	oteltrace "go.opentelemetry.io/otel/trace"

	"stockbridge/pkg/clock"
	"stockbridge/pkg/trace"
)

// Options of a connection.
type Options struct {
	// URL of one server or several, comma-separated: "nats://127.0.0.1:4222". It may hold user and password.
	URL string
	// Name of the service: shown by the server, used as the CloudEvents source of published events and as part of the
	// inboxes (InboxOf).
	Name string
	// CredsFile holds a user's JWT and key; empty for none.
	CredsFile string
	// Traces creates the spans of served messages; nil for none. Its ids must come from trace.IDs.
	Traces oteltrace.TracerProvider
	// LeaveReaders leaves the temporary consumers of readers on public streams to expire: for a user who may not delete
	// consumers there (Service.Oversees).
	LeaveReaders bool
	Log          zerolog.Logger
	// Now is the host's own clock, time.Now when nil. Tests pass one that is off.
	Now func() time.Time
}

// Bus is a connection to the broker. It is safe for concurrent use.
type Bus struct {
	nc          *nats.Conn
	js          jetstream.JetStream
	log         zerolog.Logger
	source      string
	tracer      oteltrace.Tracer // nil for none
	denials     denials
	writes      writeHealth
	reconnected broadcast
	clock       *clock.Clock
	// leaveReaders is Options.LeaveReaders.
	leaveReaders bool
}

// Connect waits until the connection is up or ctx ends. A connection that breaks later reconnects for ever; Ready
// reports its state.
func Connect(ctx context.Context, o Options) (*Bus, error) {
	b := &Bus{log: o.Log, source: o.Name, leaveReaders: o.LeaveReaders}
	b.clock = clock.New(b.serverTime, o.Now)
	if b.source == "" {
		b.source = "stockbridge"
	}
	if o.Traces != nil {
		b.tracer = o.Traces.Tracer(trace.Scope)
	}
	up := make(chan struct{}, 1)
	opts := []nats.Option{
		nats.Name(o.Name),
		nats.MaxReconnects(-1),
		nats.RetryOnFailedConnect(true),
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, time.Second),
		nats.Timeout(5 * time.Second),
		nats.ErrorHandler(b.onAsyncError),
		nats.ConnectHandler(func(*nats.Conn) { signal(up) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				b.log.Warn().Err(err).Msg("connection to NATS lost")
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			signal(up)
			b.reconnected.notify()
			b.log.Info().Str("server", nc.ConnectedServerName()).Msg("connected to NATS again")
		}),
	}
	if inbox := InboxOf(o.Name); inbox != "" {
		opts = append(opts, nats.CustomInboxPrefix(inbox))
	}
	if o.CredsFile != "" {
		opts = append(opts, nats.UserCredentials(o.CredsFile))
	}
	nc, err := nats.Connect(o.URL, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	b.nc = nc
	if !nc.IsConnected() {
		select {
		case <-up:
		case <-ctx.Done():
			why := nc.LastError()
			nc.Close()
			return nil, fmt.Errorf("connect to NATS: %w", errors.Join(ctx.Err(), why))
		}
	}
	b.js, err = jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(maxUnstored), jetstream.WithPublishAsyncTimeout(storeTimeout))
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	return b, nil
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Close flushes and closes the connection.
func (b *Bus) Close() {
	if err := b.nc.FlushTimeout(2 * time.Second); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		b.log.Debug().Err(err).Msg("cannot flush before closing")
	}
	b.nc.Close()
}

// Ready is nil while the connection is up. It does not ask the server; CheckWrites does both.
func (b *Bus) Ready() error {
	if status := b.nc.Status(); status != nats.CONNECTED {
		return fmt.Errorf("connection to NATS is %s", status)
	}
	return nil
}

// Tracer starts the spans of what this connection serves; nil when tracing is off.
func (b *Bus) Tracer() oteltrace.Tracer { return b.tracer }

// ServerID identifies the server run that the connection is with: it differs after each start of a server.
func (b *Bus) ServerID() string { return b.nc.ConnectedServerId() }
