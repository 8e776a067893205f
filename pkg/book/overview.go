package book

import (
	"context"
	"fmt"
	"hash/maphash"

	"stockbridge/pkg/ledger"
)

// Overview reads a JSON field of many books, again and again: what a scrape shows of all sellers. It decodes only what changed
// since its last Read, because most of it has not. One goroutine at a time may use it.
type Overview[T any] struct {
	books ledger.Books
	field string
	seed  maphash.Seed
	known map[string]decoded[T]
}

type decoded[T any] struct {
	sum   uint64
	value T
}

// NewOverview reads field.
func NewOverview[T any](books ledger.Books, field string) *Overview[T] {
	return &Overview[T]{books: books, field: field, seed: maphash.MakeSeed()}
}

// Read returns the field of each of the books, zero where there is none. What it returns must not be changed.
func (o *Overview[T]) Read(ctx context.Context, names []string) ([]T, error) {
	read, err := o.books.ReadMany(ctx, names, []string{o.field})
	if err != nil {
		return nil, fmt.Errorf("read %s of %d books: %w", o.field, len(names), err)
	}
	values, known := make([]T, len(names)), make(map[string]decoded[T], len(names))
	for i, name := range names {
		raw := read[i][o.field]
		v, ok := o.known[name]
		if sum := maphash.Bytes(o.seed, raw); !ok || v.sum != sum {
			v = decoded[T]{sum: sum}
			if raw != nil {
				if err := Decode(name, ledger.Field{Name: o.field, Value: raw}, &v.value); err != nil {
					return nil, err
				}
			}
		}
		known[name], values[i] = v, v.value
	}
	o.known = known
	return values, nil
}
