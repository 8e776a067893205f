// Package inredis keeps the ledger in Redis: what production uses. It knows Redis, and nothing of what the documents
// are.
//
// Every call is a Lua function that decides by the server's clock. Calls that are made at the same time travel
// together (batcher): one round trip, in which one run of a script does all that concern the same seller or quota.
// Lua's numbers are floating point and its JSON rounds them, so entries are hashes of text, and times are
// microseconds as text.
//
// Keys begin with "stockbridge:". All keys of a seller carry the hash tag {seller}, those of a quota {quota:app}:
//
//	{seller}:entry:<kind>:<number>   hash: the entry, its claim, its history
//	{seller}:lines:<kind>:<order>    hash: order line → the number that holds it
//	{seller}:find:<number>           sorted set: entries by order number and by the warehouse's number
//	{seller}:due:<kind>              sorted set: followed entries by when to check them again, milliseconds
//	{seller}:doubt:<kind>            sorted set: entries whose send is unknown, by since when
//	{seller}:refusals:<kind>         sorted set: refused entries by when they were last written
//	{seller}:kinds                   set: kinds of documents seen
//	{seller}:birth                   hash: the epoch, since when this very server remembers this seller
//	{seller}:trial                   sorted set: numbers admitted during the trial
//	{quota:app}  {quota:app}:calls   hash, sorted set: the pacing of a credential and its calls under way
//	{sellers}:due                    sorted set: sellers with followed entries by when to look at them, milliseconds
//	{sellers}:data                   text: chosen at random when the data began
//	attempts:<key>  lease:<name>     hashes
//	check                            text: when Check last wrote
//	{book:name}:meta                 hash: a book's version and its last writers
//	{book:name}:fields  …:marks      hash; sorted set: marks by their time, seconds
//	{book:name}:birth                hash: the epoch, since when this very server remembers this book
//
// # Why
//
// The client repeats a command when its connection breaks before the answer came, so every script can be called
// twice: it recognises its own earlier write by the owner (documents) or by a token that is new for each call (the
// rest), and gives its first answer again.
//
// A call costs more to carry than to do, and a server that makes 64 round trips for 64 orders spends most of its time
// on sockets. Hence batches; without a timer, because waiting for one takes longer than a round trip.
//
// A write of a book is up to half a megabyte and takes the server a millisecond, so books travel alone: in a batch
// the claims of orders would wait for it.
//
// A claim is a field of the entry with its own end, not a key that expires: it is then restored, lost and read
// together with what it claims.
package inredis

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"stockbridge/pkg/ledger"
)

const prefix = "stockbridge:"

// Limits of a call. A handler has 25 s.
const (
	dialTimeout = 2 * time.Second
	callTimeout = 3 * time.Second
	// poolWait is how long a call waits for a free connection.
	poolWait = 4 * time.Second
	// maxRetries is how often the client repeats a command whose connection broke.
	maxRetries = 2
	// poolSize is the connections per process. A connection carries one call at a time.
	poolSize = 64
)

// Options of a ledger.
type Options struct {
	// URL is redis://[user:password@]host:port/database, or rediss:// for TLS.
	URL string
	// Now replaces the server's clock, for tests.
	Now func() time.Time
}

// Ledger is a ledger.Ledger in Redis.
type Ledger struct {
	client  *redis.Client
	calls   *batcher
	scripts scripts
	now     func() time.Time
}

var _ ledger.Ledger = (*Ledger)(nil)

// Open makes a ledger. It does not connect: Check does.
func Open(o Options) (*Ledger, error) {
	settings, err := redis.ParseURL(o.URL)
	if err != nil {
		return nil, errors.New("open ledger: not a usable redis:// or rediss:// URL") // err quotes the URL with its password
	}
	redis.SetLogger(discardLogger{})      // the client also prints, past any log, what it returns as errors
	settings.ContextTimeoutEnabled = true // without it a call outlives its context until the socket times out
	settings.DialTimeout, settings.ReadTimeout, settings.WriteTimeout = dialTimeout, callTimeout, callTimeout
	settings.PoolTimeout, settings.PoolSize, settings.MaxRetries = poolWait, poolSize, maxRetries
	settings.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	settings.ClientName = "stockbridge"
	client := redis.NewClient(settings)
	return &Ledger{client: client, calls: newBatcher(client), scripts: newScripts(), now: o.Now}, nil
}

type discardLogger struct{}

func (discardLogger) Printf(context.Context, string, ...any) {}

// Close refuses new calls, lets those under way end, and closes the connections.
func (l *Ledger) Close() error { return l.calls.close() }

// clock is the time passed to scripts: 0, which means the server's own, except in tests.
func (l *Ledger) clock() int64 {
	if l.now == nil {
		return 0
	}
	return l.now().UnixMicro()
}

// Clock implements ledger.Ledger.
func (l *Ledger) Clock(ctx context.Context) (time.Time, error) {
	if l.now != nil {
		return l.now(), nil
	}
	at, err := l.client.Time(ctx).Result()
	if err != nil {
		return time.Time{}, fmt.Errorf("ask Redis for its time: %w", err)
	}
	return at.UTC(), nil
}

func wrap(verb string, k ledger.Key, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", verb, k, err)
}
