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

// ErrRefusesWrites says that JetStream stores nothing although it answers. Free its disk, then restart nats-server.
var ErrRefusesWrites = errors.New("JetStream stores nothing")

// ErrStorageUsedUp is an ErrRefusesWrites for which JetStream reports that its storage limit is reached: the configured
// one, or the one that it computed from the free space when it started.
var ErrStorageUsedUp = fmt.Errorf("%w: its storage is used up", ErrRefusesWrites)

const (
	// writeProbe is the size of the message that CheckWrites stores, bytes: more than a page of a file system, because
	// data that fits into a page that a file already has is stored on a full disk too.
	writeProbe = 8 << 10
	// writeProbeFor is how long it waits for the answer: below what Ready may take (3 s in pkg/worker).
	writeProbeFor = 2500 * time.Millisecond
	// writtenFor is how long an answer is reused, so that the cost does not depend on how often callers ask.
	writtenFor = 4 * time.Second
	// refusesAfter is how long a stream must have stored nothing until that counts: longer than an election.
	refusesAfter = 4 * time.Second
	// refusedFor is how long a failure counts that is not repeated. What could not be published is redelivered and
	// tried again within AckWait.
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

// CheckWrites is nil while the connection stands and JetStream stores what is published. When it does not store, the
// error wraps ErrRefusesWrites and says what to do. It asks the server at most every few seconds, however often it is
// called, and ends with ctx.
//
// # Why
//
// When the disk is full, the server closes the stream that it could not write until it is restarted, even when there is
// space again: publishers get no answer, while the connection stands, reads are answered and messages are delivered.
// Each stream is closed by its own first failure. So two things are checked: a message stored in a bucket that exists
// for nothing else (a full disk closes it like the others), and the results of what this process published to each
// stream (a disk that was full for a moment may have closed only one).
//
// Acks say nothing about the disk: the server keeps them in memory and writes them when it can.
func (b *Bus) CheckWrites(ctx context.Context) error {
	if err := b.Ready(); err != nil {
		return err
	}
	epoch := b.epoch()
	return errors.Join(b.writes.refused(epoch, time.Now()), b.writes.probe(ctx, epoch, b.writeProbe))
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
	case <-denied.closed:
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

// probeBody does not compress: a compressing file system would always find room for it.
func probeBody() []byte {
	body := make([]byte, writeProbe)
	for i := range body {
		body[i] = byte(rand.Uint32())
	}
	return body
}

// unstored reports whether a publish failed because the store did not answer, or said that it cannot.
func unstored(err error) bool {
	return unanswered(err) || errors.Is(err, jetstream.ErrAsyncPublishTimeout) || errors.Is(err, jetstream.ErrNoStreamResponse)
}

func usedUp(err error) bool {
	var api jetstream.JetStreamError
	return errors.As(err, &api) && api.APIError() != nil && api.APIError().ErrorCode == codeNoResources
}

// writeHealth is the result of what was published, by stream, within one connection epoch: after a reconnect the server
// may have been restarted.
type writeHealth struct {
	mu      sync.Mutex
	epoch   uint64
	refuses map[string]*refusal

	probing  sync.Mutex
	probedAt time.Time
	probedIn uint64
	last     error
}

// refusal describes a stream that has stored nothing since its first failure.
type refusal struct {
	since, last time.Time
	usedUp      bool
}

// note records the result of a message that was published at began and was stored, or given up, at ended.
func (s *writeHealth) note(epoch uint64, subject string, began, ended time.Time, err error) {
	if err != nil && !unstored(err) {
		return // refused for its content, or given up: says nothing about the store
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.epoch != epoch {
		s.epoch, s.refuses = epoch, nil
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

// refused names the streams that store nothing.
func (s *writeHealth) refused(epoch uint64, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.epoch != epoch {
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

// probe asks unless somebody did a moment ago. A failure is reused for less time, so that a recovery shows soon.
func (s *writeHealth) probe(ctx context.Context, epoch uint64, ask func(context.Context) error) error {
	s.probing.Lock()
	defer s.probing.Unlock()
	goodFor := writtenFor
	if s.last != nil {
		goodFor /= 4
	}
	if s.probedAt.IsZero() || s.probedIn != epoch || time.Since(s.probedAt) > goodFor {
		s.last = ask(ctx)
		s.probedAt, s.probedIn = time.Now(), epoch
	}
	return s.last
}

// streamTaking is the stream or bucket that stores a subject; the subject itself when none does.
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

// matches reports whether a filter with wildcards matches a subject.
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
