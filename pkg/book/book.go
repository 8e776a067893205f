// Package book reads and changes books of the ledger (ledger.Books): a transaction over some fields, by compare-and-set. It
// knows neither who keeps a book nor what is in it.
//
// # Why
//
// Each place that changed a book had its own loop around ReadBook and WriteBook, its own pauses, and its own idea of when to
// give up. They differed by accident. Here a change is a function of what was read; it runs again when somebody else wrote
// in between, after a pause that grows and is jittered, until ctx is done: how long that may take is the caller's limit.
package book

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"

	"stockbridge/pkg/ledger"
)

// ErrField is the error of a field that cannot be read as what it should hold.
var ErrField = errors.New("a field of the book cannot be read")

// Tx is some fields and marks of a book as they were at one moment, and what is to be written of them.
type Tx struct {
	ledger.Book
	name  string
	write map[string][]byte
	marks []ledger.Mark
}

// Read reads fields and marks of a book. What is put into the Tx is not written.
func Read(ctx context.Context, b ledger.Books, name string, fields, marks []string) (*Tx, error) {
	read, err := b.ReadBook(ctx, name, fields, marks)
	if err != nil {
		return nil, fmt.Errorf("read book %s: %w", name, err)
	}
	return &Tx{Book: read, name: name, write: map[string][]byte{}}, nil
}

// Update reads fields and marks of a book, lets change decide what to write, and writes it. It starts over when others wrote
// in between, until ctx is done. A change that writes nothing only reads; its error is returned as it is. After a lost answer
// a change may be made twice: it recognises by marks, or by what it reads, that it is done.
func Update(ctx context.Context, b ledger.Books, name string, fields, marks []string, change func(*Tx) error) error {
	for try := 0; ; try++ {
		t, err := Read(ctx, b, name, fields, marks)
		if err != nil {
			return err
		}
		if err := change(t); err != nil || len(t.write)+len(t.marks) == 0 {
			return err
		}
		_, err = b.WriteBook(ctx, name, ledger.BookWrite{Version: t.Version, Owner: uuid.NewString(), Fields: t.write, Marks: t.marks})
		if err == nil {
			return nil
		}
		if err = fmt.Errorf("write book %s: %w", name, err); !errors.Is(err, ledger.ErrVersion) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w, others write all the time: %w", err, ctx.Err())
		case <-time.After(pause(try)):
		}
	}
}

// pause is how long to let others finish their writing after so many tries: 50 ms at most, which is several writes to either
// ledger.
func pause(try int) time.Duration {
	most := min(time.Millisecond<<min(try, 6), 50*time.Millisecond)
	return 100*time.Microsecond + rand.N(most) //nolint:gosec // jitter
}

// Scan calls f with every field of a book whose name begins with prefix. A field that is written meanwhile may come in its old
// or new form, or twice.
func Scan(ctx context.Context, b ledger.Books, name, prefix string, f func(ledger.Field) error) error {
	for from := ""; ; {
		fields, next, err := b.ScanBook(ctx, name, prefix, from)
		if err != nil {
			return fmt.Errorf("scan book %s: %w", name, err)
		}
		for _, field := range fields {
			if err := f(field); err != nil {
				return err
			}
		}
		if from = next; next == "" {
			return nil
		}
	}
}

// MayBeOlder reports whether the book may be an older copy than the one that was written in an epoch: the ledger was wiped,
// restored or failed over since. epoch is the EpochSince of that time, zero when the book was never written.
func (t *Tx) MayBeOlder(epoch time.Time) bool { return MayBeOlder(epoch, t.EpochSince) }

// MayBeOlder is Tx.MayBeOlder for a book in the ledger's epoch now.
func MayBeOlder(written, now time.Time) bool { return written.IsZero() || !written.Equal(now) }

// Value returns a field, as it was put or read; nil when there is none.
func (t *Tx) Value(field string) []byte {
	if raw, ok := t.write[field]; ok {
		return raw
	}
	return t.Fields[field]
}

// Get reads a JSON field into v, and reports whether it exists.
func (t *Tx) Get(field string, v any) (bool, error) {
	raw := t.Value(field)
	if raw == nil {
		return false, nil
	}
	if err := Decode(t.name, ledger.Field{Name: field, Value: raw}, v); err != nil {
		return false, err
	}
	return true, nil
}

// Decode reads a JSON field of a book into v.
func Decode(name string, f ledger.Field, v any) error {
	if err := json.Unmarshal(f.Value, v); err != nil {
		return fmt.Errorf("%w: %s %s: %w", ErrField, name, f.Name, err)
	}
	return nil
}

// Set sets a field.
func (t *Tx) Set(field string, value []byte) { t.write[field] = value }

// Put sets a field to v as JSON. v is a plain struct or map: one that JSON cannot hold is a bug.
func (t *Tx) Put(field string, v any) {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("marshal a plain struct: %v", err))
	}
	t.write[field] = raw
}

// Drop removes a field that was put or read.
func (t *Tx) Drop(field string) {
	if t.Value(field) != nil {
		t.write[field] = nil
	}
}

// Keep leaves a field as it was read, whatever was put.
func (t *Tx) Keep(field string) { delete(t.write, field) }

// Mark sets a mark. It counts as set from then on.
func (t *Tx) Mark(name string, at time.Time) {
	t.marks = append(t.marks, ledger.Mark{Name: name, At: at})
	t.Marked[name] = true
}
