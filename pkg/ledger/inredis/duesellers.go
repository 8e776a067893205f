package inredis

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"stockbridge/pkg/ledger"
)

const (
	// dueSellers is the list of sellers that have something followed, by when to look at them, milliseconds.
	dueSellers = prefix + "{sellers}:due"
	// dataKey holds what was chosen at random when the data began.
	dataKey = prefix + "{sellers}:data"
)

// repairPage is how many sellers RepairDueSellers reads in a round trip.
const repairPage = 500

// hintDue lists the sellers of runs whose documents became due, in the same round trip as the documents, after them. It is
// a hint: see ledger.DueSellers. Each seller keeps the earliest time.
func hintDue(ctx context.Context, pipe redis.Pipeliner, runs []*run) {
	var list []redis.Z
	for _, r := range runs {
		if r.due != 0 {
			list = append(list, redis.Z{Member: sellerOf(r.key), Score: float64(r.due)})
		}
	}
	if len(list) > 0 {
		pipe.ZAddArgs(ctx, dueSellers, redis.ZAddArgs{LT: true, Members: list})
	}
}

// sellerOf is the seller of a sellerKey.
func sellerOf(key string) string {
	return strings.TrimSuffix(strings.TrimPrefix(key, prefix+"{"), "}:")
}

// dueOf is when a call's document is due next, milliseconds; 0 when the operation does not say, or it no longer is.
func (s *script) dueOf(op string, args []any) int64 {
	i, says := s.due[op]
	if !says {
		return 0
	}
	at, err := strconv.ParseInt(fmt.Sprint(args[i]), 10, 64)
	if err != nil {
		return 0
	}
	return at
}

// DueSellers implements ledger.DueSellers.
//
// The sellers that are due are first put off by LookAgain, and then looked at. So a document that becomes due after the
// look lowers the time again, and a caller that dies in between delays them by LookAgain.
func (l *Ledger) DueSellers(ctx context.Context, kinds []string, now time.Time, again time.Duration, limit int) (names []string, more bool, err error) {
	look := now.Add(ledger.LookAgain).UnixMilli()
	listed, err := l.scripts.takeDue.Run(ctx, l.client, []string{dueSellers}, now.UnixMilli(), limit, look).StringSlice()
	if err != nil {
		return nil, false, fmt.Errorf("list due sellers: %w", err)
	}
	if len(listed) == 0 {
		return nil, false, nil
	}
	first, err := l.firstDue(ctx, kinds, listed)
	if err != nil {
		return nil, false, fmt.Errorf("list due sellers: %w", err)
	}
	gone := []any{look}
	var sooner []redis.Z
	for i, name := range listed {
		switch at := first[i]; {
		case at == math.MaxInt64:
			gone = append(gone, name)
		case at <= now.UnixMilli():
			names = append(names, name)
			sooner = append(sooner, redis.Z{Member: name, Score: float64(now.Add(again).UnixMilli())})
		case at < look:
			sooner = append(sooner, redis.Z{Member: name, Score: float64(at)})
		}
	}
	if len(sooner) > 0 {
		err = l.client.ZAddArgs(ctx, dueSellers, redis.ZAddArgs{LT: true, Members: sooner}).Err()
	}
	if len(gone) > 1 {
		err = errors.Join(err, l.scripts.dropDue.Run(ctx, l.client, []string{dueSellers}, gone...).Err())
	}
	if err != nil {
		return nil, false, fmt.Errorf("list due sellers: %w", err)
	}
	return names, len(listed) == limit, nil
}

// RepairDueSellers implements ledger.DueSellers.
func (l *Ledger) RepairDueSellers(ctx context.Context, kinds, sellers []string) error {
	for len(sellers) > 0 {
		page := sellers[:min(len(sellers), repairPage)]
		sellers = sellers[len(page):]
		first, err := l.firstDue(ctx, kinds, page)
		if err != nil {
			return fmt.Errorf("repair the list of due sellers: %w", err)
		}
		var list []redis.Z
		for i, name := range page {
			if first[i] != math.MaxInt64 {
				list = append(list, redis.Z{Member: name, Score: float64(first[i])})
			}
		}
		if len(list) == 0 {
			continue
		}
		// One that is listed is left alone: its time is right, or at most LookAgain late.
		if err := l.client.ZAddNX(ctx, dueSellers, list...).Err(); err != nil {
			return fmt.Errorf("repair the list of due sellers: %w", err)
		}
	}
	return nil
}

// firstDue is when the first document of each seller is due, milliseconds; MaxInt64 when none is followed.
func (l *Ledger) firstDue(ctx context.Context, kinds, sellers []string) ([]int64, error) {
	read := make([]*redis.ZSliceCmd, 0, len(sellers)*len(kinds))
	if _, err := l.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, name := range sellers {
			for _, kind := range kinds {
				read = append(read, p.ZRangeWithScores(ctx, sellerKey(name)+"due:"+kind, 0, 0))
			}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	first := make([]int64, len(sellers))
	for i := range sellers {
		first[i] = math.MaxInt64
		for _, cmd := range read[i*len(kinds) : (i+1)*len(kinds)] {
			if found := cmd.Val(); len(found) > 0 {
				first[i] = min(first[i], int64(found[0].Score))
			}
		}
	}
	return first, nil
}

// Instance implements ledger.DueSellers.
func (l *Ledger) Instance(ctx context.Context) (string, error) {
	name, err := l.scripts.instance.Run(ctx, l.client, []string{dataKey}, rand.Text()).Text()
	if err != nil {
		return "", fmt.Errorf("ask Redis which it is: %w", err)
	}
	return name, nil
}
