package seller

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/retry"
	sellerv1 "stockbridge/proto/seller/v1"
)

// Store reads and writes single set-ups in the bucket. What it does takes the same time however many sellers there are; who
// needs all of them follows the bucket with a Registry.
//
// # Why
//
// Put has to find other sellers of an account's identity. For each seller and identity the bucket has a key,
// identity.<hash of the identity>.<seller>, which is written before the set-up and only finds it: whether a seller has the
// identity is in its set-up. So a key that a crash or a change left behind does no harm. The first Put of a bucket of
// before reads all set-ups once.
type Store struct{ bucket *bus.Bucket }

// NewStore makes a Store of the bucket of set-ups.
func NewStore(bucket *bus.Bucket) Store { return Store{bucket} }

// identitiesIndexed says that the keys of all set-ups of before were written.
const identitiesIndexed = identityKey + "indexed"

func keyOfIdentity(id string) string {
	sum := sha256.Sum256([]byte(id))
	return identityKey + hex.EncodeToString(sum[:16])
}

// Get reads one seller, without its Twins; false when there is none.
func (s Store) Get(ctx context.Context, name string) (*Seller, bool, error) {
	v, err := s.bucket.Get(ctx, setupKey+name)
	if errors.Is(err, bus.ErrKeyNotFound) || err == nil && len(v.Data) == 0 {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read the set-up of %s: %w", name, err)
	}
	setup, err := decodeSetup(name, v.Data)
	if err != nil {
		return nil, false, fmt.Errorf("read the set-up of %s: %w", name, err)
	}
	p, err := s.bucket.Get(ctx, pauseKey+name)
	if err != nil && !errors.Is(err, bus.ErrKeyNotFound) {
		return nil, false, fmt.Errorf("read the pause of %s: %w", name, err)
	}
	pause, err := decodePause(p.Data)
	if err != nil {
		return nil, false, fmt.Errorf("read the pause of %s: %w", name, err)
	}
	found := New(setup, pause)
	found.Version = v.Revision
	return found, true, nil
}

func decodeSetup(name string, data []byte) (*sellerv1.Setup, error) {
	setup := &sellerv1.Setup{}
	err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, setup)
	if err == nil && setup.Name != name {
		err = fmt.Errorf("it is the set-up of %q", setup.Name)
	}
	return setup, err
}

// Put replaces the given version of a set-up (Seller.Version, 0 when there was none), and returns the new version. It
// returns Faults when the set-up has any, and ErrChanged when another version is stored by now. The caller publishes
// event.SellerChanged.
func (s Store) Put(ctx context.Context, setup *sellerv1.Setup, version uint64) (uint64, error) {
	revision, _, err := s.put(ctx, setup, version)
	return revision, err
}

// put also returns what it wrote.
func (s Store) put(ctx context.Context, setup *sellerv1.Setup, version uint64) (revision uint64, written []bus.Value, err error) {
	if err := Validate(setup); err != nil {
		return 0, nil, err
	}
	was, known, err := s.Get(ctx, setup.Name)
	if err != nil {
		return 0, nil, fmt.Errorf("apply %s: %w", setup.Name, err)
	}
	if known {
		if faults := switchOverFaults(was.Setup, setup, time.Now()); len(faults) > 0 {
			return 0, nil, faults
		}
	}
	faults, err := s.identityFaults(ctx, setup, was)
	if err != nil {
		return 0, nil, fmt.Errorf("apply %s: %w", setup.Name, err)
	}
	if len(faults) > 0 {
		return 0, nil, faults
	}
	key := setupKey + setup.Name
	data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(setup)
	if err != nil {
		return 0, nil, fmt.Errorf("apply %s: %w", setup.Name, err)
	}
	if len(data) > maxStored {
		return 0, nil, Faults{{Code: "setup.size", ZH: fmt.Sprintf("设置共 %d 字节，最多 %d 字节", len(data), maxStored),
			EN: fmt.Sprintf("the set-up takes %d bytes, %d at most", len(data), maxStored)}}
	}
	// Both before the set-up: nothing is sent under it while the time is not known, and the next call finds it.
	if err := s.indexIdentities(ctx, setup); err != nil {
		return 0, nil, fmt.Errorf("apply %s: %w", setup.Name, err)
	}
	moved, err := s.recordMove(ctx, was, setup)
	if err != nil {
		return 0, nil, fmt.Errorf("apply %s: %w", setup.Name, err)
	}
	revision, err = s.bucket.Update(ctx, key, data, version)
	if errors.Is(err, bus.ErrRevision) {
		// It may be our own write, whose answer was lost.
		v, getErr := s.bucket.Get(ctx, key)
		stored := &sellerv1.Setup{}
		if getErr != nil || v.Revision == version || protojson.Unmarshal(v.Data, stored) != nil || !proto.Equal(stored, setup) {
			return 0, moved, fmt.Errorf("apply %s: %w", setup.Name, ErrChanged)
		}
		revision, err = v.Revision, nil
	}
	if err != nil {
		return 0, moved, fmt.Errorf("apply %s: %w", setup.Name, err)
	}
	return revision, append(moved, bus.Value{Key: key, Data: data, Revision: revision}), nil
}

// recordMove records that applying setup changes the identity of a warehouse. A set-up that then is not applied leaves
// a time that is too late, which is safe. It returns what it wrote.
func (s Store) recordMove(ctx context.Context, was *Seller, setup *sellerv1.Setup) (written []bus.Value, err error) {
	now := New(setup, nil)
	if was == nil || !slices.ContainsFunc(was.Setup.Warehouses, func(w *sellerv1.Warehouse) bool { return was.IdentityOf(w.Code) != now.IdentityOf(w.Code) }) {
		return nil, nil
	}
	key := movedKey + setup.Name
	err = retry.Do(ctx, retry.Policy{}, func(ctx context.Context) error {
		v, err := s.bucket.Get(ctx, key)
		if err != nil && !errors.Is(err, bus.ErrKeyNotFound) {
			return err
		}
		if _, err := s.bucket.Update(ctx, key, []byte("{}"), v.Revision); err != nil {
			return err
		}
		if v, err = s.bucket.Get(ctx, key); err == nil {
			written = []bus.Value{v}
		}
		return err
	})
	return written, err
}

// identityFaults finds the accounts of a set-up that would take another seller's identity. When a pair exists
// already, from before this was refused, the later seller may be changed otherwise; the earlier one may not, because
// it would become the later one.
func (s Store) identityFaults(ctx context.Context, setup *sellerv1.Setup, was *Seller) (faults Faults, err error) {
	if err := s.indexEarlier(ctx); err != nil {
		return nil, err
	}
	var had []string
	if was != nil {
		had = exclusiveIdentities(was.Setup)
	}
	exclusive := exclusiveIdentities(setup)
	for i, a := range setup.Accounts {
		id := Identity(a)
		if !slices.Contains(exclusive, id) {
			continue
		}
		others, err := s.othersOf(ctx, id, setup.Name)
		if err != nil {
			return nil, err
		}
		first := slices.IndexFunc(others, func(o *Seller) bool {
			return was != nil && cmp.Or(cmp.Compare(o.Version, was.Version), cmp.Compare(o.Name(), setup.Name)) < 0
		})
		if slices.Contains(had, id) && first >= 0 {
			continue
		}
		for _, other := range others {
			faults = append(faults, fault.Reason{
				Code: "setup.twin", Field: fmt.Sprintf("accounts[%d]", i),
				ZH: fmt.Sprintf("商家 %s 与 %s 不能使用同一应用、事业部和 ERP 编号 (app_key, department, vendor_source)：按单号查询时会把对方的单据当作自己的；请合并为一个商家，或改用各自的编号", setup.Name, other.Name()),
				EN: fmt.Sprintf("sellers %s and %s cannot have application, department and vendor source in common: asked for by number, each would find the other's documents; make one seller of both, or give each its own", setup.Name, other.Name()),
			})
		}
	}
	return faults, nil
}

// othersOf reads the other sellers that have the identity.
func (s Store) othersOf(ctx context.Context, id, name string) (others []*Seller, err error) {
	keys, err := s.bucket.Keys(ctx, keyOfIdentity(id))
	if err != nil {
		return nil, err
	}
	slices.Sort(keys)
	for _, key := range keys {
		other := key[strings.LastIndexByte(key, '.')+1:]
		if other == name {
			continue
		}
		o, known, err := s.Get(ctx, other)
		if err != nil {
			return nil, err
		}
		if known && slices.Contains(exclusiveIdentities(o.Setup), id) {
			others = append(others, o)
		}
	}
	return others, nil
}

// indexIdentities writes the keys that find the set-up by its identities.
func (s Store) indexIdentities(ctx context.Context, setup *sellerv1.Setup) error {
	for _, id := range exclusiveIdentities(setup) {
		if _, err := s.bucket.Create(ctx, keyOfIdentity(id)+"."+setup.Name, []byte("{}")); err != nil && !errors.Is(err, bus.ErrKeyExists) {
			return err
		}
	}
	return nil
}

// indexEarlier does it for the set-ups of a bucket of before.
func (s Store) indexEarlier(ctx context.Context) error {
	if _, err := s.bucket.Get(ctx, identitiesIndexed); !errors.Is(err, bus.ErrKeyNotFound) {
		return err
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	seen, err := s.bucket.Watch(watching, strings.TrimSuffix(setupKey, "."))
	if err != nil {
		return err
	}
	for v := range seen {
		if v.Current {
			if _, err := s.bucket.Create(ctx, identitiesIndexed, []byte("{}")); err != nil && !errors.Is(err, bus.ErrKeyExists) {
				return err
			}
			return nil
		}
		if setup, err := decodeSetup(strings.TrimPrefix(v.Key, setupKey), v.Data); err == nil { // one that no worker can read has no identity
			if err := s.indexIdentities(ctx, setup); err != nil {
				return err
			}
		}
	}
	return cmp.Or(ctx.Err(), errors.New("read all set-ups: the watch ended"))
}
