package inkv

import (
	"math"
	"time"

	"stockbridge/pkg/ledger"
)

// Numbers of the pacing. inredis/lua/acquire.lua does the same with the same numbers.
const (
	// slack is how late a call may come without delaying the next one. Calls are spaced that much wider per second, so
	// that no second holds more than the limit all the same.
	slack = 5 * time.Millisecond
	// travel is by how much calls may differ in the time until the far side counts them. Calls are spaced that much
	// wider per second too: two thirds of the 3 % of the limit that may go unused are for this.
	travel = 15 * time.Millisecond
	// nearFor is how far ahead slots are promised one by one.
	nearFor = 200 * time.Millisecond
	// crowd is how much closer than slots the returns beyond that are told: late ones leave no slot empty.
	crowd = 0.97
	// graceLeast and graceMost bound how long a promised slot waits for whom it was promised to.
	graceLeast, graceMost = 20 * time.Millisecond, time.Second
	// waitMost is the longest wait that is told: limits change, and others give up.
	waitMost = 5 * time.Minute
	// activeFor is how long a floor accrues after its class last asked.
	activeFor = 10 * time.Second
)

// rank says who goes first. A class that has credit on its floor asks at floorRank.
type rank int

const (
	floorRank rank = iota
	cancelRank
	pushRank
	statusRank
	stockRank
	ranks
)

// class is one of ledger.Quota's.
type class struct {
	rank rank
	// floor is the guaranteed share of the limit; 0 for none.
	floor float64
}

var classes = map[ledger.Class]class{
	"cancel": {rank: cancelRank},
	"push":   {rank: pushRank},
	"status": {rank: statusRank, floor: 0.15},
	"stock":  {rank: stockRank, floor: 0.10},
}

// pace is what is known of a quota. Times are microseconds.
//
// Calls start at slots, an interval apart. An asker who finds none free is promised the next one that nobody of its
// rank or a better one was promised, when that is near; those in front of which a better one squeezed in are promised
// another. When the near slots are all promised, an asker is told to return when, at this pace, there will be room
// among them again. Nobody says who he is when he returns, so nothing is kept per asker: only, by rank, the last
// promised slot and the last told return.
type pace struct {
	// At is when it was last asked.
	At int64
	// Next is when the next slot is.
	Next int64
	// Calls are those under way.
	Calls map[string]call
	// Length is how long calls take, a moving average.
	Length int64
	// Near is the last slot that was promised to a rank, Far the last return that was told beyond those.
	Near, Far [ranks]int64
	Floors    map[ledger.Class]floor
}

// call ends at Until when nobody says so before.
type call struct{ From, Until int64 }

// floor is a class's claim on its guaranteed share: it has credit for a call from Due on.
type floor struct{ Asked, Due int64 }

// acquire starts a call, or says how long to wait.
func (p *pace) acquire(now int64, id string, name ledger.Class, l ledger.Limit, ttl time.Duration) (ok bool, wait int64) {
	if p.At > now+time.Second.Microseconds() {
		*p = pace{Next: now} // another server, whose clock is behind: what the first one promised never comes
	}
	now = max(now, p.At)
	p.At = now
	for other, c := range p.Calls {
		if c.Until <= now {
			delete(p.Calls, other)
		}
	}
	if _, again := p.Calls[id]; again {
		return true, 0
	}
	me, credit := p.rank(now, name)

	interval := int64(math.Ceil(1e6 / l.PerSecond * (1 + (slack + travel).Seconds())))
	turn := max(interval, p.Length/int64(l.Concurrent)) // how fast waiting really goes
	if now-p.Next > max(time.Second.Microseconds(), 4*turn) {
		p.Far = [ranks]int64{} // slots stood empty: those who were told to return do not
	}
	p.Next = min(p.Next, now+interval) // the limit may have been raised meanwhile
	free := p.Next
	if len(p.Calls) >= l.Concurrent {
		free = max(free, now+max(turn/2, 1000)) // a call may end at any time: look twice as often
	} else {
		turn = interval
	}

	grace := min(max(interval, graceLeast.Microseconds()), graceMost.Microseconds())
	slot, first, crowded := free, true, false
	for r := floorRank; r <= me; r++ {
		if r == floorRank && !credit {
			continue
		}
		if p.Near[r]+grace > now {
			slot = max(slot, p.Near[r]+turn)
			first = first && r == me
		}
		crowded = crowded || r != floorRank && r < me && p.Far[r] > now
	}

	if free <= now && first {
		p.Next = max(p.Next, now-slack.Microseconds()) + interval
		p.start(now, id, me, ttl)
		p.spend(now, name, l)
		return true, 0
	}
	slot = max(slot, now+1000) // one who goes first is late
	near := max(nearFor.Microseconds(), turn)
	switch f, floored := p.Floors[name]; {
	case crowded && floored: // better ranks take all but the floor
		p.Far[me] = max(p.Far[me]+floorStep(name, l), f.Due)
	case slot <= now+near:
		p.Near[me] = slot
		return false, slot - now
	default:
		p.Far[me] = max(p.Far[me], now+near) + int64(float64(turn)*crowd)
	}
	wait = p.Far[me] - now
	if most := waitMost.Microseconds(); wait > most {
		wait = most/2 + now%1000*most/2000 // anywhere in the second half, so that not all return at once
	}
	return false, wait
}

// rank brings the class's floor up to date. credit tells whether any class may use its floor now.
func (p *pace) rank(now int64, name ledger.Class) (me rank, credit bool) {
	me = classes[name].rank
	if classes[name].floor > 0 {
		f := p.Floors[name]
		if now-f.Asked > activeFor.Microseconds() {
			f.Due = now
		}
		f.Due = max(f.Due, now-activeFor.Microseconds())
		f.Asked = now
		if p.Floors == nil {
			p.Floors = map[ledger.Class]floor{}
		}
		p.Floors[name] = f
		if f.Due <= now {
			me = floorRank
		}
	}
	for _, f := range p.Floors {
		credit = credit || f.Due <= now && now-f.Asked <= activeFor.Microseconds()
	}
	return me, credit
}

func (p *pace) start(now int64, id string, me rank, ttl time.Duration) {
	if p.Calls == nil {
		p.Calls = map[string]call{}
	}
	p.Calls[id] = call{now, now + ttl.Microseconds()}
	if p.Near[me] <= now {
		p.Near[me] = 0 // the last promise is kept: nobody has to wait for it any longer
	}
}

// spend takes a call from the class's floor. What a class got beyond its floor is not held against it.
func (p *pace) spend(now int64, name ledger.Class, l ledger.Limit) {
	if f, ok := p.Floors[name]; ok {
		f.Due = min(f.Due, now) + floorStep(name, l)
		p.Floors[name] = f
	}
}

func floorStep(name ledger.Class, l ledger.Limit) int64 {
	return int64(1e6 / l.PerSecond / classes[name].floor)
}

// end ends a call; one that ended already is no error.
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
