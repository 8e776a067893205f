package inredis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"stockbridge/pkg/ledger"
)

const (
	// keepDropped is how long the version of a dropped book is remembered. After that the clock is past it.
	keepDropped = 24 * time.Hour
	// scanStep is how many fields of a book one step of a ScanBook looks at. It is a third of a millisecond for Redis.
	scanStep = 300
)

func bookKey(name string) string { return prefix + "{book:" + name + "}:" }

// bookArgs are the first arguments of all scripts about a book, with room for more.
func (l *Ledger) bookArgs(room int) []any {
	return append(make([]any, 0, room+2), l.clock(), int(ledger.KeepMarks.Seconds()))
}

// ReadBook implements ledger.Books.
func (l *Ledger) ReadBook(ctx context.Context, name string, fields, marks []string) (ledger.Book, error) {
	b, err := l.readBook(ctx, name, fields, marks)
	if err != nil {
		return ledger.Book{}, fmt.Errorf("read book %s: %w", name, err)
	}
	return b, nil
}

func (l *Ledger) readBook(ctx context.Context, name string, fields, marks []string) (b ledger.Book, err error) {
	if err := ledger.ValidRead(name, fields, marks); err != nil {
		return b, err
	}
	args := append(l.bookArgs(len(fields)+len(marks)+1), len(fields))
	for _, f := range fields {
		args = append(args, f)
	}
	for _, m := range marks {
		args = append(args, m)
	}
	reply, err := l.scripts.readBook.Run(ctx, l.client, []string{bookKey(name)}, args...).Slice()
	if err != nil {
		return b, err
	}
	r := answer(reply)
	if b.Version, err = strconv.ParseUint(r.text(0), 10, 64); err != nil {
		return b, err
	}
	b.EpochSince, b.Fields, b.Marked = r.time(1), map[string][]byte{}, map[string]bool{}
	values, _ := r[2].([]any)
	for i, v := range values {
		if text, ok := v.(string); ok {
			b.Fields[fields[i]] = []byte(text)
		}
	}
	standing, _ := r[3].([]any)
	for _, place := range standing {
		if i, ok := place.(int64); ok {
			b.Marked[marks[i-1]] = true
		}
	}
	return b, nil
}

// ReadMany implements ledger.Books.
func (l *Ledger) ReadMany(ctx context.Context, names, fields []string) ([]map[string][]byte, error) {
	books := make([]map[string][]byte, 0, len(names))
	for part := range slices.Chunk(names, readTogether) {
		values := make([]*redis.SliceCmd, len(part))
		if _, err := l.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, name := range part {
				values[i] = p.HMGet(ctx, bookKey(name)+"fields", fields...)
			}
			return nil
		}); err != nil {
			return nil, fmt.Errorf("read %d books: %w", len(names), err)
		}
		for _, of := range values {
			book := map[string][]byte{}
			for i, v := range of.Val() {
				if text, ok := v.(string); ok {
					book[fields[i]] = []byte(text)
				}
			}
			books = append(books, book)
		}
	}
	return books, nil
}

var errBookReply = errors.New("unexpected answer of a book script")

// WriteBook implements ledger.Books.
func (l *Ledger) WriteBook(ctx context.Context, name string, w ledger.BookWrite) (uint64, error) {
	version, err := l.writeBook(ctx, name, w)
	if err != nil {
		return 0, fmt.Errorf("write book %s: %w", name, err)
	}
	return version, nil
}

func (l *Ledger) writeBook(ctx context.Context, name string, w ledger.BookWrite) (uint64, error) {
	if err := w.Valid(name); err != nil {
		return 0, err
	}
	set, gone := make([]any, 0, 2*len(w.Fields)), []any(nil)
	for field, value := range w.Fields {
		if value == nil {
			gone = append(gone, field)
		} else {
			set = append(set, field, value)
		}
	}
	args := append(l.bookArgs(6+len(set)+len(gone)+2*len(w.Marks)),
		strconv.FormatUint(w.Version, 10), w.Owner, ledger.KeepOwners, len(set)/2, len(gone), len(w.Marks))
	args = append(append(args, set...), gone...)
	for _, m := range w.Marks {
		args = append(args, m.At.Unix(), m.Name)
	}
	reply, err := l.scripts.writeBook.Run(ctx, l.client, []string{bookKey(name)}, args...).StringSlice()
	switch {
	case err != nil:
		return 0, err
	case len(reply) == 2 && reply[0] == "written":
		return strconv.ParseUint(reply[1], 10, 64)
	case len(reply) == 1 && reply[0] == "moved":
		return 0, ledger.ErrVersion
	}
	return 0, errBookReply
}

// ScanBook implements ledger.Books.
func (l *Ledger) ScanBook(ctx context.Context, name, prefix, from string) ([]ledger.Field, string, error) {
	fields, next, err := l.scanBook(ctx, name, prefix, from)
	if err != nil {
		return nil, "", fmt.Errorf("scan book %s: %w", name, err)
	}
	return fields, next, nil
}

func (l *Ledger) scanBook(ctx context.Context, name, prefix, from string) (fields []ledger.Field, next string, err error) {
	var cursor uint64
	if from != "" {
		if cursor, err = strconv.ParseUint(from, 10, 64); err != nil {
			return nil, "", fmt.Errorf("from %q: not what ScanBook returned", from)
		}
	}
	// A scan may find nothing for a long stretch; the caller wants some fields.
	for len(fields) == 0 {
		var flat []string
		flat, cursor, err = l.client.HScan(ctx, bookKey(name)+"fields", cursor, escapePattern(prefix)+"*", scanStep).Result()
		if err != nil {
			return nil, "", err
		}
		for i := 0; i+1 < len(flat); i += 2 {
			fields = append(fields, ledger.Field{Name: flat[i], Value: []byte(flat[i+1])})
		}
		if cursor == 0 {
			return fields, "", nil
		}
	}
	return fields, strconv.FormatUint(cursor, 10), nil
}

// escapePattern makes a pattern that matches text literally.
func escapePattern(text string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`).Replace(text)
}

// DropBook implements ledger.Books.
func (l *Ledger) DropBook(ctx context.Context, name string) error {
	args := append(l.bookArgs(1), int(keepDropped.Seconds()))
	if err := l.scripts.dropBook.Run(ctx, l.client, []string{bookKey(name)}, args...).Err(); err != nil {
		return fmt.Errorf("drop book %s: %w", name, err)
	}
	return nil
}
