package bus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
)

// Age ends what at now has been a dead letter of the consumer for longer than keep: dead letters are erased; held
// messages become dead letters with the given reason, so that nothing that still waits disappears unseen. Any number of
// workers may call it at once. It returns how many of each, also beside an error.
func (b *Bus) Age(ctx context.Context, consumer string, now time.Time, keep time.Duration, why fault.Reason) (erased, ended int, err error) {
	for _, kind := range []string{event.Dead, event.Held} {
		err := b.eachByPage(ctx, DeadLetterQuery{Kind: kind, Consumer: consumer, Limit: deadLetterPageMax}, func(s DeadLetter) error {
			if now.Sub(s.Last) <= keep {
				return nil
			}
			if kind == event.Dead {
				err := b.Erase(ctx, streamDeadLetters, s.Seq, time.Time{})
				if err == nil {
					erased++
				}
				return err
			}
			err := b.expireHeld(ctx, s.Seq, now, why)
			if errors.Is(err, ErrNoDeadLetter) {
				return nil // it was released just now
			}
			if err == nil {
				ended++
			}
			return err
		})
		if err != nil {
			return erased, ended, err
		}
	}
	return erased, ended, nil
}

// expireHeld turns a held message into a dead letter.
func (b *Bus) expireHeld(ctx context.Context, seq uint64, now time.Time, why fault.Reason) error {
	stream, raw, err := b.deadLetterMessage(ctx, seq)
	if err != nil {
		return err
	}
	e := decodeEnvelope(raw.Header)
	s, err := e.deadLetter(raw.Subject, seq, raw.Data)
	if err != nil {
		return fmt.Errorf("end the waiting of %d: %w", seq, err)
	}
	v := &e.verdict
	v.class, v.cause, v.reason, v.text, v.last = fault.Refused.String(), "", why, why.Error()+"; "+s.Cause+": "+s.Error, now
	m := &nats.Msg{Subject: event.DeadLetterSubject(event.Dead, s.Consumer, s.Stream, s.OriginSeq), Header: maps.Clone(raw.Header), Data: raw.Data}
	e.writeTo(m.Header)
	m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.Itoa(0))
	acks, err := b.store(ctx, m)
	if err != nil && !wrongLast(err) { // somebody else has just done it, or it is a dead letter already
		return fmt.Errorf("end the waiting of %d: %w", seq, err)
	}
	stored := err == nil
	err = removeDeadLetter(ctx, stream, seq)
	if errors.Is(err, ErrNoDeadLetter) && stored {
		return errors.Join(err, b.Erase(ctx, streamDeadLetters, acks[0].Sequence, time.Time{})) // it was released meanwhile
	}
	return err
}
