package inkv

import (
	"math"
	"strconv"
	"time"

	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
)

// A class that has credit on its floor asks at floorRank, else at its quota.Class.Rank.
const (
	floorRank = 0
	ranks     = 5 // floorRank and those of quota.Classes
)

// pace is the state of a quota. Times are microseconds.
//
// Calls start at slots, an interval apart. A caller that finds no slot free gets a reservation: the next slot that no
// caller of its rank or a better one has reserved, if that is near. When a better rank takes a slot in between, the
// callers behind it get another reservation. When all near slots are reserved, a caller is deferred: it must
// ask again when, at this pace, there will be room among them. Callers are anonymous when they return, so nothing is
// kept per caller: only, by rank, the last reserved slot and the last deferred return.
type pace struct {
	// At is the time of the last call.
	At int64
	// Next is the time of the next slot.
	Next int64
	// Calls are the calls under way.
	Calls map[string]call
	// Length is the duration of calls, a moving average.
	Length int64
	// Reserved is, by rank, the last reserved slot.
	Reserved [ranks]int64 `json:"Near"`
	// Deferred is, by rank, the last return time given out beyond those.
	Deferred [ranks]int64 `json:"Far"`
	Floors   map[quota.Class]floor
}

// call counts until Until unless it is returned before.
type call struct{ From, Until int64 }

// floor is a class's guaranteed share: it has credit for a call from Due on.
type floor struct{ Asked, Due int64 }

// memberOf is the id of a call of a block, the first's that of the block.
func memberOf(id string, i int) string {
	if i == 0 {
		return id
	}
	return id + "." + strconv.Itoa(i)
}

// acquire starts up to most calls and returns in how many µs each may start, the first at once; or how long to wait. More
// than one call is a block: turns in a row for callers of one worker, which ask once.
func (p *pace) acquire(now int64, id string, name quota.Class, l ledger.Limit, most int, ttl time.Duration) (in []int64, wait int64) {
	if p.At > now+time.Second.Microseconds() {
		*p = pace{Next: now} // another server, whose clock is behind: the reservations of the first one never come
	}
	now = max(now, p.At)
	p.At = now
	for other, c := range p.Calls {
		if c.Until <= now {
			delete(p.Calls, other)
		}
	}
	if _, again := p.Calls[id]; again {
		return []int64{0}, 0
	}
	own, credit := p.rankOf(now, name)

	interval := int64(math.Ceil(1e6 / l.PerSecond * (1 + (quota.Slack + quota.Jitter).Seconds())))
	spacing := max(interval, p.Length/int64(l.Concurrent)) // the real pace of those that wait
	if now-p.Next > max(time.Second.Microseconds(), 4*spacing) {
		p.Deferred = [ranks]int64{} // slots stayed empty: the deferred callers do not return
	}
	p.Next = min(p.Next, now+interval) // the limit may have been raised meanwhile
	free := p.Next
	if len(p.Calls) >= l.Concurrent {
		free = max(free, now+max(spacing/2, 1000)) // a call may end at any time: check twice as often
	} else {
		spacing = interval
	}

	keepFor := min(max(interval, quota.MinReservation.Microseconds()), quota.MaxReservation.Microseconds())
	slot, first, deferredBefore := free, true, false
	for r := floorRank; r <= own; r++ {
		if r == floorRank && !credit {
			continue
		}
		if p.Reserved[r]+keepFor > now {
			slot = max(slot, p.Reserved[r]+spacing)
			first = first && r == own
		}
		deferredBefore = deferredBefore || r != floorRank && r < own && p.Deferred[r] > now
	}

	if free <= now && first {
		p.Next = max(p.Next, now-quota.Slack.Microseconds()) + interval
		p.start(now, id, own, ttl)
		p.spend(now, name, l)
		in = []int64{0}
		if most > 1 && name.Floor() == 0 && p.nobodyWaits(now, keepFor) {
			for len(in) < most && p.Next <= now+quota.BlockAhead.Microseconds() && 2*len(p.Calls) < l.Concurrent {
				p.Calls[memberOf(id, len(in))] = call{now, now + ttl.Microseconds()}
				in = append(in, max(p.Next-now, 0))
				p.Next += interval
			}
		}
		return in, 0
	}
	slot = max(slot, now+1000) // the first in line is late
	near := max(quota.ReserveAhead.Microseconds(), spacing)
	switch f, hasFloor := p.Floors[name]; {
	case deferredBefore && hasFloor: // better ranks use all but the floor
		p.Deferred[own] = max(p.Deferred[own]+floorStep(name, l), f.Due)
	case slot <= now+near:
		p.Reserved[own] = slot
		return nil, slot - now
	default:
		p.Deferred[own] = max(p.Deferred[own], now+near) + int64(float64(spacing)*quota.DeferredSpacing)
	}
	wait = p.Deferred[own] - now
	if most := quota.MaxWait.Microseconds(); wait > most {
		wait = most/2 + now%1000*most/2000 // anywhere in the second half, so that not all return at once
	}
	return nil, wait
}

// nobodyWaits reports whether no caller, of whichever rank, has reserved a slot or is to return for one.
func (p *pace) nobodyWaits(now, keepFor int64) bool {
	for r := range ranks {
		if p.Reserved[r]+keepFor > now || p.Deferred[r] > now {
			return false
		}
	}
	return true
}

// rankOf updates the class's floor and returns its rank. credit reports whether any class may use its floor now.
func (p *pace) rankOf(now int64, name quota.Class) (own int, credit bool) {
	own = name.Rank()
	if name.Floor() > 0 {
		f := p.Floors[name]
		if now-f.Asked > quota.FloorActiveFor.Microseconds() {
			f.Due = now
		}
		f.Due = max(f.Due, now-quota.FloorActiveFor.Microseconds())
		f.Asked = now
		if p.Floors == nil {
			p.Floors = map[quota.Class]floor{}
		}
		p.Floors[name] = f
		if f.Due <= now {
			own = floorRank
		}
	}
	for _, f := range p.Floors {
		credit = credit || f.Due <= now && now-f.Asked <= quota.FloorActiveFor.Microseconds()
	}
	return own, credit
}

func (p *pace) start(now int64, id string, own int, ttl time.Duration) {
	if p.Calls == nil {
		p.Calls = map[string]call{}
	}
	p.Calls[id] = call{now, now + ttl.Microseconds()}
	if p.Reserved[own] <= now {
		p.Reserved[own] = 0 // the last reservation was used: nobody has to wait for it any longer
	}
}

// spend takes a call from the class's floor. What a class got beyond its floor does not count against it.
func (p *pace) spend(now int64, name quota.Class, l ledger.Limit) {
	if f, ok := p.Floors[name]; ok {
		f.Due = min(f.Due, now) + floorStep(name, l)
		p.Floors[name] = f
	}
}

func floorStep(name quota.Class, l ledger.Limit) int64 {
	return int64(1e6 / l.PerSecond / name.Floor())
}

// end ends a call; a call that already ended is no error.
func (p *pace) end(now int64, id string) {
	c, ok := p.Calls[id]
	if !ok {
		return
	}
	delete(p.Calls, id)
	took := max(now-c.From, 0)
	if p.Length == 0 {
		p.Length = took
	}
	p.Length += (took - p.Length) / 8
}
