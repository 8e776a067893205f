package bus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"stockbridge/pkg/event"
)

// A lane is a consumer of one seller's messages. It takes over while more of them wait than the seller's seats can handle:
// the main consumer passes them over, which means that it acks them unread, and gets to the other sellers' messages behind
// them. See doc.go.
//
// Its life: any worker opens it. It is open until it was empty for a while. Then it is closing, for good: workers
// pass nothing over for it any more. When each worker knows that, and when it is empty, it is deleted.
const (
	// lanesPerConsumer is how many there may be at a time. Their names are fixed, because permissions cannot cover part of
	// a name. Without a free one, messages without a seat are delayed on RETRY.
	lanesPerConsumer = 16
	// mostWaiting is how many messages without a seat may wait in the main consumer for one worker; together they must stay
	// below maxAckPending.
	mostWaiting = 2_000

	// laneClosingKey marks a closing lane, and laneDeliveredKey says up to which sequence the main consumer may have delivered
	// the lane's messages: keys of a consumer's metadata.
	laneClosingKey   = "stockbridge.closing"
	laneDeliveredKey = "stockbridge.delivered"
)

// laneTimes are the times in a lane's life; tests live faster.
type laneTimes struct {
	// look is how often the lanes are listed while there are some, lookIdle how often while there is none.
	look, lookIdle time.Duration
	// trust is for how long a list may be relied on to pass messages over.
	trust time.Duration
	// idle is how long a lane is empty before it is closing, closing how long before it is deleted: longer than trust, by
	// the time in which the stream's replicas have everything that is stored.
	idle, closing time.Duration
}

func defaultLaneTimes() laneTimes {
	return laneTimes{
		look: 2 * time.Second, lookIdle: 5 * time.Second, trust: 10 * time.Second, idle: 30 * time.Second, closing: 40 * time.Second,
	}
}

func laneName(consumer string, n int) string { return consumer + "-lane-" + strconv.Itoa(n) }

// laneNames are the names of all lanes of a consumer.
func laneNames(consumer string) []string {
	names := make([]string, lanesPerConsumer)
	for i := range names {
		names[i] = laneName(consumer, i+1)
	}
	return names
}

// lane is one as it was listed.
type lane struct {
	name, subject string
	// start is the first sequence that it delivers, delivered the last that the main consumer may have delivered before it
	// was opened.
	start, delivered uint64
	closing          bool
	info             *jetstream.ConsumerInfo
}

// passes reports whether the lane will deliver the message.
func (l lane) passes(subject string, seq uint64) bool {
	return !l.closing && l.subject == subject && l.start <= seq
}

// laneList is the lanes of a consumer at some time.
type laneList struct {
	// at is from before they were asked for, epoch that of the connection: another connection may be to a server that was
	// restored from an older copy.
	at    time.Time
	epoch uint64
	lanes []lane
}

// lanes are those of a server's consumer.
type lanes struct {
	w    *server
	list atomic.Pointer[laneList]
	// look asks for a new list.
	look chan struct{}

	mu sync.Mutex
	// waiting are messages without a seat that the main consumer redelivers, by subject: those that this process released,
	// until when they should have returned. total is how many they are.
	waiting map[string]map[uint64]time.Time
	total   int
	// wanted are subjects that need a lane.
	wanted map[string]bool
	// served are the lanes that this process pulls from. emptySince and closingSince are what it saw itself, by its own
	// clock.
	served                   map[string]context.CancelFunc
	emptySince, closingSince map[string]time.Time
}

func newLanes(w *server) *lanes {
	return &lanes{
		w: w, look: make(chan struct{}, 1), waiting: map[string]map[uint64]time.Time{}, wanted: map[string]bool{},
		served: map[string]context.CancelFunc{}, emptySince: map[string]time.Time{}, closingSince: map[string]time.Time{},
	}
}

// passes reports whether an open lane delivers the message, so that the main consumer may ack it unread.
func (l *lanes) passes(subject string, seq uint64) bool {
	list := l.list.Load()
	if list == nil || len(list.lanes) == 0 || list.epoch != l.w.b.epoch() || time.Since(list.at) > l.w.s.laneTimes.trust {
		return false
	}
	return slices.ContainsFunc(list.lanes, func(of lane) bool { return of.passes(subject, seq) })
}

// noteWaiting records that the message found no seat and returns after pause, and asks for a lane when too many of its
// subject wait. It reports whether the message must not wait in the consumer, because there is no lane to be had.
func (l *lanes) noteWaiting(subject string, seq uint64, pause time.Duration) (full bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	of := l.waiting[subject]
	if of == nil {
		of = map[uint64]time.Time{}
		l.waiting[subject] = of
	}
	if _, known := of[seq]; !known {
		l.total++
	}
	of[seq] = time.Now().Add(pause + nakLimit/2)
	if len(of) >= l.most() {
		l.prune(subject, of)
	}
	list := l.list.Load()
	has := list != nil && slices.ContainsFunc(list.lanes, func(of lane) bool { return !of.closing && of.subject == subject })
	burst := len(of) < l.most()
	if has || burst && l.total <= mostWaiting {
		return false
	}
	if _, err := event.SellerOn(l.w.topic, subject); err != nil || list != nil && len(list.lanes) >= lanesPerConsumer {
		return true
	}
	if !burst && !l.wanted[subject] {
		l.wanted[subject] = true
		signal(l.look)
	}
	return false
}

// most is how many messages of a subject wait in the main consumer before it gets a lane: enough for a burst.
func (l *lanes) most() int { return 2 * l.w.s.Slots }

// prune drops the waiting messages of a subject that went to another replica. It requires mu.
func (l *lanes) prune(subject string, of map[uint64]time.Time) {
	now := time.Now()
	for seq, until := range of {
		if until.Before(now) {
			delete(of, seq)
			l.total--
		}
	}
	if len(of) == 0 {
		delete(l.waiting, subject)
	}
}

// noteSeated records that a message that may have waited has a seat.
func (l *lanes) noteSeated(subject string, seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	of := l.waiting[subject]
	if _, waited := of[seq]; !waited {
		return
	}
	delete(of, seq)
	l.total--
	if len(of) == 0 {
		delete(l.waiting, subject)
	}
}

// run keeps the list, opens, serves, closes and deletes lanes, until soft ends.
func (l *lanes) run() {
	var serving sync.WaitGroup
	defer serving.Wait()
	for {
		pause := l.w.s.laneTimes.lookIdle
		if err := l.refresh(l.w.soft); err != nil && l.w.soft.Err() == nil {
			l.w.b.log.Debug().Err(err).Str("consumer", l.w.row.Name).Msg("cannot list the lanes")
		}
		l.openWanted(l.w.soft)
		list := l.list.Load()
		if list != nil && len(list.lanes) > 0 {
			pause = l.w.s.laneTimes.look
			l.serve(list, &serving)
			l.closeEmpty(l.w.soft, list)
		}
		l.w.seats.forget()
		timer := time.NewTimer(pause)
		select {
		case <-l.w.soft.Done():
			timer.Stop()
			return
		case <-l.look:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// refresh lists the lanes.
func (l *lanes) refresh(ctx context.Context) error {
	list := &laneList{at: time.Now(), epoch: l.w.b.epoch()}
	infos, err := l.w.b.lanesOf(ctx, l.w.row)
	if err != nil {
		return err
	}
	list.lanes = infos
	l.list.Store(list)
	l.mu.Lock()
	defer l.mu.Unlock()
	for subject, of := range l.waiting {
		l.prune(subject, of)
	}
	for _, of := range list.lanes {
		if !of.closing {
			delete(l.wanted, of.subject)
			l.total -= len(l.waiting[of.subject])
			delete(l.waiting, of.subject) // they return, and are passed over
		}
	}
	return nil
}

// lanesOf are the lanes of a consumer, by name.
func (b *Bus) lanesOf(ctx context.Context, row Consumer) (all []lane, err error) {
	if !row.lanes() {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s, err := b.js.Stream(ctx, row.Stream)
	if err != nil {
		return nil, fmt.Errorf("list the lanes of %s: %w", row.Name, err)
	}
	names := laneNames(row.Name)
	listed := s.ListConsumers(ctx)
	for info := range listed.Info() {
		if !slices.Contains(names, info.Name) || info.Config.FilterSubject == "" || info.Config.OptStartSeq == 0 {
			continue
		}
		delivered, err := strconv.ParseUint(info.Config.Metadata[laneDeliveredKey], 10, 64)
		if err != nil {
			continue
		}
		_, closing := info.Config.Metadata[laneClosingKey]
		all = append(all, lane{info.Name, info.Config.FilterSubject, info.Config.OptStartSeq, delivered, closing, info})
	}
	if err := listed.Err(); err != nil {
		return nil, fmt.Errorf("list the lanes of %s: %w", row.Name, err)
	}
	slices.SortFunc(all, func(x, y lane) int { return slices.Index(names, x.name) - slices.Index(names, y.name) })
	return all, nil
}

// openWanted opens a lane for each subject that needs one.
func (l *lanes) openWanted(ctx context.Context) {
	l.mu.Lock()
	wanted := slices.Sorted(maps.Keys(l.wanted))
	l.mu.Unlock()
	for _, subject := range wanted {
		if err := l.open(ctx, subject); err != nil && ctx.Err() == nil {
			l.w.b.log.Warn().Err(err).Str("subject", subject).Msg("cannot open a lane; its messages wait in the consumer")
		}
	}
}

// open opens a lane for the subject. It starts with the first message that this process knows to wait. A message that
// another replica has in hand may be delivered twice then; the ledger knows it.
func (l *lanes) open(ctx context.Context, subject string) error {
	list := l.list.Load()
	if list == nil || list.epoch != l.w.b.epoch() {
		return nil // it is asked for again
	}
	l.mu.Lock()
	var start uint64
	for seq := range l.waiting[subject] {
		if start == 0 || seq < start {
			start = seq
		}
	}
	if start == 0 {
		delete(l.wanted, subject)
	}
	l.mu.Unlock()
	if start == 0 {
		return nil
	}
	names := laneNames(l.w.row.Name)
	for _, of := range list.lanes {
		names = slices.DeleteFunc(names, func(name string) bool { return name == of.name })
	}
	if len(names) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	main, err := l.w.b.js.Consumer(ctx, l.w.row.Stream, l.w.row.Name)
	if err != nil {
		return fmt.Errorf("open a lane for %s: %w", subject, err)
	}
	config := consumerConfig(names[0], []string{subject})
	config.DeliverPolicy, config.OptStartSeq = jetstream.DeliverByStartSequencePolicy, start
	config.Replicas = main.CachedInfo().Config.Replicas
	config.Metadata = map[string]string{laneDeliveredKey: strconv.FormatUint(main.CachedInfo().Delivered.Stream, 10)}
	_, err = l.w.b.js.CreateConsumer(ctx, l.w.row.Stream, config)
	if err != nil && !errors.Is(err, jetstream.ErrConsumerExists) { // another replica was faster; it may be for another seller
		return fmt.Errorf("open a lane for %s: %w", subject, err)
	}
	l.w.b.log.Info().Str("consumer", l.w.row.Name).Str("subject", subject).Uint64("from", start).Msg("a seller's backlog has a lane of its own")
	return l.refresh(ctx)
}

// serve starts to pull from new lanes, and ends it for those that are gone.
func (l *lanes) serve(list *laneList, serving *sync.WaitGroup) {
	l.mu.Lock()
	defer l.mu.Unlock()
	here := map[string]bool{}
	for _, of := range list.lanes {
		key := of.name + " " + of.subject + " " + strconv.FormatUint(of.start, 10) // a name is used again
		here[key] = true
		if l.served[key] != nil {
			continue
		}
		ctx, cancel := context.WithCancel(l.w.soft)
		l.served[key] = cancel
		serving.Go(func() { l.w.dispatchLane(ctx, of) })
	}
	for key, cancel := range l.served {
		if !here[key] {
			cancel()
			delete(l.served, key)
		}
	}
}

// closeEmpty marks lanes as closing that were empty for a while, and deletes those that were closing for long enough.
func (l *lanes) closeEmpty(ctx context.Context, list *laneList) {
	now := time.Now()
	seen := map[string]bool{}
	for _, of := range list.lanes {
		seen[of.name] = true
		empty, err := l.w.b.emptyLane(ctx, l.w.row.Stream, of)
		if err != nil || !empty {
			delete(l.emptySince, of.name)
		} else if l.emptySince[of.name].IsZero() {
			l.emptySince[of.name] = now
		}
		if !of.closing {
			delete(l.closingSince, of.name)
		} else if l.closingSince[of.name].IsZero() {
			l.closingSince[of.name] = now
		}
		switch since := l.emptySince[of.name]; {
		case since.IsZero():
			continue
		case of.closing && now.Sub(l.closingSince[of.name]) >= l.w.s.laneTimes.closing:
			err = l.w.b.js.DeleteConsumer(ctx, l.w.row.Stream, of.name)
			if errors.Is(err, jetstream.ErrConsumerNotFound) {
				err = nil
			}
		case !of.closing && now.Sub(since) >= l.w.s.laneTimes.idle:
			config := of.info.Config
			config.Metadata = maps.Clone(config.Metadata)
			config.Metadata[laneClosingKey] = l.w.b.Now().UTC().Format(time.RFC3339)
			_, err = l.w.b.js.UpdateConsumer(ctx, l.w.row.Stream, config)
		}
		if err != nil && ctx.Err() == nil {
			l.w.b.log.Debug().Err(err).Str("lane", of.name).Msg("cannot close a lane yet")
		}
	}
	for _, since := range []map[string]time.Time{l.emptySince, l.closingSince} {
		maps.DeleteFunc(since, func(name string, _ time.Time) bool { return !seen[name] })
	}
}

// emptyLane reports whether all of a lane's messages are settled. The stream's leader is asked for the last one: the
// replica that leads the consumer may be behind it.
func (b *Bus) emptyLane(ctx context.Context, stream string, of lane) (bool, error) {
	if of.info.NumPending > 0 || of.info.NumAckPending > 0 {
		return false, nil
	}
	s, err := b.js.Stream(ctx, stream)
	if err != nil {
		return false, err
	}
	last, err := s.GetLastMsgForSubject(ctx, of.subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return last.Sequence < of.start || last.Sequence <= of.info.Delivered.Stream, nil
}

// firstOf reports whether a lane's first delivery of a message is the first one at all.
func (l lane) firstOf(seq uint64) bool { return seq > l.delivered }
