package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Errors of a Bucket.
var (
	// ErrKeyExists: Create found the key.
	ErrKeyExists = errors.New("key exists")
	// ErrKeyNotFound: there is no such key, or it was deleted.
	ErrKeyNotFound = errors.New("key not found")
	// ErrRevision: the key was written since it was read. A caller that repeats a call that timed out may meet its own
	// first write here: if it must know, it puts a token of its own into the value.
	ErrRevision = errors.New("key changed meanwhile")
)

// Bucket is a key-value store on the bus. Keys are tokens of A-Z a-z 0-9 _ - / = separated by dots.
//
// Get may be answered by a replica that is slightly behind: decide with Create, Update and Delete, which compare on the
// leader. All calls end with ctx. A write ends after 5 s at the latest, and may have succeeded all the same.
type Bucket struct {
	bus *Bus
	kv  jetstream.KeyValue
	// markers is how long a deletion stays visible.
	markers time.Duration
}

// Value is a key's value.
type Value struct {
	Key  string
	Data []byte
	// Revision grows with every write to the bucket, also over deletions: a fencing token.
	Revision uint64
	// At is when the server stored it.
	At time.Time
}

// Seen is one update of a watch.
type Seen struct {
	Value
	// Deleted: the key is gone, Data is nil.
	Deleted bool
	// Current marks the end of the values that the bucket held when the watch started; no other field is set. Changes
	// follow.
	Current bool
}

// Bucket opens a bucket of the topology.
func (b *Bus) Bucket(ctx context.Context, name string) (*Bucket, error) {
	kv, err := b.js.KeyValue(ctx, name)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, fmt.Errorf("open bucket %s: %w", name, ErrTopology)
	}
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", name, err)
	}
	status, err := kv.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", name, err)
	}
	return &Bucket{bus: b, kv: kv, markers: status.LimitMarkerTTL()}, nil
}

// Get reads key; ErrKeyNotFound.
func (k *Bucket) Get(ctx context.Context, key string) (Value, error) {
	var e jetstream.KeyValueEntry
	err := withRetry(ctx, func(ctx context.Context) (err error) {
		e, err = k.kv.Get(ctx, key)
		return err
	})
	if err != nil {
		return Value{}, keyError("get", key, err)
	}
	return valueOf(e), nil
}

// Create writes key if it is not there; ErrKeyExists.
func (k *Bucket) Create(ctx context.Context, key string, data []byte) (revision uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	epoch, began := k.bus.epoch(), time.Now()
	revision, err = k.kv.Create(ctx, key, data)
	k.note(epoch, key, began, err)
	return revision, keyError("create", key, err)
}

// Update writes key if it still has the given revision; ErrRevision. Revision 0 means that key was never written.
func (k *Bucket) Update(ctx context.Context, key string, data []byte, revision uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	epoch, began := k.bus.epoch(), time.Now()
	next, err := k.kv.Update(ctx, key, data, revision)
	k.note(epoch, key, began, err)
	return next, keyError("update", key, err)
}

// Delete removes key if it still has the given revision (ErrRevision), or whatever stands there when revision is 0.
// Deleting what is not there is no error.
func (k *Bucket) Delete(ctx context.Context, key string, revision uint64) error {
	opts := []jetstream.KVDeleteOpt{jetstream.PurgeTTL(k.markers)}
	if revision != 0 {
		opts = append(opts, jetstream.LastRevision(revision))
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	epoch, began := k.bus.epoch(), time.Now()
	err := k.kv.Purge(ctx, key, opts...)
	k.note(epoch, key, began, err)
	return keyError("delete", key, err)
}

// note reports the result of a write to CheckWrites.
func (k *Bucket) note(epoch uint64, key string, began time.Time, err error) {
	k.bus.writes.note(epoch, keyPrefix+k.kv.Bucket()+"."+key, began, time.Now(), err)
}

// Keys lists the keys below prefix, which is whole tokens without the last dot ("seller" lists "seller.acme", not
// "sellers.x"); all keys when it is empty. The order is unspecified.
func (k *Bucket) Keys(ctx context.Context, prefix string) ([]string, error) {
	lister, err := k.kv.ListKeysFiltered(ctx, below(prefix))
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", below(prefix), err)
	}
	var keys []string
	for key := range lister.Keys() {
		keys = append(keys, key)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list %s: %w", below(prefix), err)
	}
	return keys, nil
}

// Watch sends the values below prefix, then Current, then each change, until ctx ends and the channel is closed. It
// survives lost connections; a reader that was cut off for longer than the bucket keeps markers of deletions
// (topology.go) may miss one.
//
// The channel is also closed when the connection is with another server, or another run of it, than when the watch
// started: the bucket may have been restored from an older copy, which issues its revisions again. A caller that starts
// over must not compare with revisions from before, and must forget what is not sent before Current.
func (k *Bucket) Watch(ctx context.Context, prefix string) (<-chan Seen, error) {
	reconnected, server := k.bus.reconnected.wait(), k.bus.ServerID()
	w, err := k.kv.Watch(ctx, below(prefix))
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", below(prefix), err)
	}
	out := make(chan Seen)
	go func() {
		defer close(out)
		defer w.Stop() //nolint:errcheck // the subscription ends with the connection at the latest
		for {
			var seen Seen
			select {
			case <-ctx.Done():
				return
			case <-reconnected:
				if k.bus.ServerID() != server {
					return
				}
				reconnected = k.bus.reconnected.wait()
				continue
			case e, ok := <-w.Updates():
				switch {
				case !ok:
					return
				case e == nil:
					seen.Current = true
				default:
					seen.Value = valueOf(e)
					if e.Operation() != jetstream.KeyValuePut {
						seen.Deleted, seen.Data = true, nil
					}
				}
			}
			select {
			case <-ctx.Done():
				return
			case out <- seen:
			}
		}
	}()
	return out, nil
}

func below(prefix string) string {
	if prefix == "" {
		return jetstream.AllKeys
	}
	return prefix + "." + jetstream.AllKeys
}

func valueOf(e jetstream.KeyValueEntry) Value {
	return Value{Key: e.Key(), Data: e.Value(), Revision: e.Revision(), At: e.Created()}
}

func keyError(verb, key string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return fmt.Errorf("%s %s: %w", verb, key, ErrKeyNotFound)
	case errors.Is(err, jetstream.ErrKeyExists) && verb == "create":
		return fmt.Errorf("%s %s: %w", verb, key, ErrKeyExists)
	case wrongLast(err):
		return fmt.Errorf("%s %s: %w", verb, key, ErrRevision)
	default:
		return fmt.Errorf("%s %s: %w", verb, key, err)
	}
}

// wrongLast reports whether a compare-and-set lost. Replicated streams use another code than single ones.
func wrongLast(err error) bool {
	var api jetstream.JetStreamError
	if !errors.As(err, &api) || api.APIError() == nil {
		return errors.Is(err, jetstream.ErrKeyExists)
	}
	code := api.APIError().ErrorCode
	return code == jetstream.JSErrCodeStreamWrongLastSequence || code == jetstream.JSErrCodeStreamWrongLastSequenceConstant
}
