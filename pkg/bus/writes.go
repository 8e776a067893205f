package bus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"stockbridge/pkg/event"
)

// ErrRefusesWrites says that JetStream takes no writes, although it answers. Free its disk, then restart nats-server.
var ErrRefusesWrites = errors.New("JetStream stores nothing")

// ErrStorageUsedUp is an ErrRefusesWrites of which JetStream itself says that its limit of storage is reached: the one that
// is configured, or the one that it reckoned from the free space when it started.
var ErrStorageUsedUp = fmt.Errorf("%w: its storage is used up", ErrRefusesWrites)

const (
	// writeProbe is the size of the message that CheckWrites stores, bytes: more than a page of a file system, because what
	// fits into a page that a file has already is stored on a full disk too.
	writeProbe = 8 << 10
	// writeProbeFor is how long it waits for the answer: below what Ready may take (3 s in pkg/worker).
	writeProbeFor = 2500 * time.Millisecond
	// writtenFor is how long an answer is good for, so that the cost does not follow from how often somebody asks.
	writtenFor = 4 * time.Second
	// refusesAfter is for how long nothing must have been stored in a stream until that counts: longer than an election.
	refusesAfter = 4 * time.Second
	// refusedFor is for how long a failure counts that nobody repeats. What could not be published is delivered and tried
	// again within AckWait.
	refusedFor = 2 * time.Minute
	// keyPrefix is the first token of the subjects of buckets.
	keyPrefix = "$KV."
	// codeNoResources is the server's "insufficient resources".
	codeNoResources = 10023
)

const (
	freeEN = "is its disk full? Free space, then restart nats-server: a stream that once could not be written stays closed until then"
	freeZH = "请检查 NATS 所在磁盘是否已满；释放空间后重启 nats-server（写入失败过的流在重启前一直关闭）"
)

// CheckWrites is nil while the connection stands and JetStream stores what is published. It wraps ErrRefusesWrites, and says
// what to do, when it does not store. It asks at most every few seconds, whoever calls how often, and ends with ctx.
//
// # Why
//
// A stream that cannot be written, because the disk is full, is closed until the server is restarted, also when there is
// space again: publishers get no answer, while the connection stands, reads are answered and messages are delivered. Each
// stream is closed by its own first failure. So two things are looked at: a message stored in a bucket that is there for
// nothing else (a full disk closes it like the others), and what became of the messages that this process published to
// each stream (a disk that was full for a moment may have closed only one).
//
// Acks say nothing of a disk: the server keeps them in memory and writes them when it can.
func (b *Bus) CheckWrites(ctx context.Context) error {
	if err := b.Ready(); err != nil {
		return err
	}
	life := b.life()
	return errors.Join(b.stored.refused(life, time.Now()), b.stored.probe(ctx, life, b.writeProbe))
}

// writeProbe stores one message.
func (b *Bus) writeProbe(ctx context.Context) error {
	key := b.source
	if !event.ValidToken(key) {
		key = "other"
	}
	subject := keyPrefix + bucketReady + "." + key
	denied, done := b.denials.wait(subject)
	defer done()
	f, err := b.js.PublishMsgAsync(&nats.Msg{Subject: subject, Data: probeBody()})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, writeProbeFor)
	defer cancel()
	select {
	case <-f.Ok():
		return nil
	case err = <-f.Err():
	case <-denied.told:
		return denied.err
	case <-ctx.Done():
		err = ctx.Err()
	}
	switch {
	case usedUp(err):
		return fmt.Errorf("%w (insufficient resources): free space or raise max_file_store, then restart nats-server. JetStream 存储空间已用尽：请释放空间或调大 max_file_store，然后重启 nats-server", ErrStorageUsedUp)
	case unstored(err):
		return fmt.Errorf("%w (no answer from bucket %s within %s): %s. JetStream 无法写入：%s", ErrRefusesWrites, bucketReady, writeProbeFor, freeEN, freeZH)
	default:
		return fmt.Errorf("write to bucket %s: %w", bucketReady, err)
	}
}

// probeBody does not compress: a file system that does would always find room for it.
func probeBody() []byte {
	body := make([]byte, writeProbe)
	for i := range body {
		body[i] = byte(rand.Uint32())
	}
	return body
}

// unstored tells whether a publish failed because the store did not answer, or said that it cannot.
func unstored(err error) bool {
	return unanswered(err) || errors.Is(err, jetstream.ErrAsyncPublishTimeout) || errors.Is(err, jetstream.ErrNoStreamResponse)
}

func usedUp(err error) bool {
	var api jetstream.JetStreamError
	return errors.As(err, &api) && api.APIError() != nil && api.APIError().ErrorCode == codeNoResources
}

// stored is what became of what was published, by stream, over one life of the connection: the next one may be with a
// server that was restarted.
type stored struct {
	mu      sync.Mutex
	life    uint64
	refuses map[string]*refusal

	probing sync.Mutex
	asked   time.Time
	askedIn uint64
	last    error
}

// refusal is of a stream that has stored nothing since the first failure.
type refusal struct {
	since, last time.Time
	usedUp      bool
}

// note takes in what became of a message that was published at began and was given up, or stored, at ended.
func (s *stored) note(life uint64, subject string, began, ended time.Time, err error) {
	if err != nil && !unstored(err) {
		return // refused for what it is, or given up: says nothing of the store
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life != life {
		s.life, s.refuses = life, nil
	}
	if err == nil && len(s.refuses) == 0 {
		return
	}
	stream := streamTaking(subject)
	if err == nil {
		delete(s.refuses, stream)
		return
	}
	r := s.refuses[stream]
	if r == nil {
		r = &refusal{since: began}
		if s.refuses == nil {
			s.refuses = map[string]*refusal{}
		}
		s.refuses[stream] = r
	}
	r.last, r.usedUp = ended, usedUp(err)
}

// refused names the streams that take nothing.
func (s *stored) refused(life uint64, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life != life {
		return nil
	}
	var names []string
	what := ErrStorageUsedUp
	for _, stream := range slices.Sorted(maps.Keys(s.refuses)) {
		r := s.refuses[stream]
		if now.Sub(r.last) > refusedFor || r.last.Sub(r.since) < refusesAfter {
			continue
		}
		names = append(names, fmt.Sprintf("%s for %s", stream, now.Sub(r.since).Round(time.Second)))
		if !r.usedUp {
			what = ErrRefusesWrites
		}
	}
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf("%w in stream %s: %s. 流无法写入：%s", what, strings.Join(names, ", "), freeEN, freeZH)
}

// probe asks unless somebody did a moment ago. A failure is not kept as long: who waits for the end of it wants to know.
func (s *stored) probe(ctx context.Context, life uint64, ask func(context.Context) error) error {
	s.probing.Lock()
	defer s.probing.Unlock()
	goodFor := writtenFor
	if s.last != nil {
		goodFor /= 4
	}
	if s.asked.IsZero() || s.askedIn != life || time.Since(s.asked) > goodFor {
		s.last = ask(ctx)
		s.asked, s.askedIn = time.Now(), life
	}
	return s.last
}

// streamTaking is the stream or bucket that takes a subject; the subject itself when none does.
func streamTaking(subject string) string {
	for _, r := range streams {
		if slices.ContainsFunc(r.subjects, func(filter string) bool { return matches(filter, subject) }) {
			return r.name
		}
	}
	if below, ok := strings.CutPrefix(subject, keyPrefix); ok {
		bucket, _, _ := strings.Cut(below, ".")
		return bucketPrefix + bucket
	}
	return subject
}

// matches tells whether a filter with wildcards takes a subject.
func matches(filter, subject string) bool {
	want, have := strings.Split(filter, "."), strings.Split(subject, ".")
	for i, token := range want {
		switch {
		case token == ">":
			return len(have) > i
		case i >= len(have) || token != "*" && token != have[i]:
			return false
		}
	}
	return len(want) == len(have)
}
