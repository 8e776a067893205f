package bus

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/event"
)

// Service is what the bus knows of a worker: topology and permissions follow from it.
type Service struct {
	// Name is also that of its NATS user.
	Name      string
	Consumers []Consumer
	// Ticks are its own schedules, one of a kind, however many sellers there are: <kind>.due of event.NoSeller. The handler
	// finds the sellers with something to do and fires theirs (Bus.TickEach). Apply sets them.
	Ticks []Tick
	// Reads are the public streams that it reads from the beginning, to rebuild what it knows.
	Reads []string
	// Oversees are consumers of other services that it watches over: it reads their events and dead letters, and may
	// redeliver events to them (Bus.Redeliver). It may not remove a consumer from a public stream, because permissions
	// cannot separate the one that it reads by from the one that it watches over: Options.LeaveReaders.
	Oversees []Consumer
}

// Consumer is a durable consumer of one event. Retries and replays of what it takes come to a second one, on RETRY.
type Consumer struct {
	Name string
	// Topic is the event's name, Stream where it is stored, Filters its subjects there.
	Topic, Stream string
	Filters       []string
	// Retired are streams on which earlier builds had a consumer of this name. Apply empties and removes those: pending
	// messages come to this one through RETRY, like retries. They carry the place where they were stored, so they never
	// count as new.
	Retired []string
}

// ConsumerOf is the consumer of that name for a public event or a tick.
func ConsumerOf[M proto.Message](name string, topic event.Topic[M]) Consumer {
	c := Consumer{Name: name, Topic: topic.Name}
	if kind, tick := strings.CutSuffix(topic.Name, ".due"); tick && !public(topic.Name) {
		c.Stream, c.Filters = streamTicks, []string{event.DueSubjects(kind)}
		return c
	}
	i := slices.IndexFunc(streams, func(r streamRow) bool { return r.public && covers(r.subjects, topic.Name) })
	if i < 0 {
		panic(fmt.Sprintf("no stream holds %s", topic.Name)) // a row of a table, not input
	}
	c.Stream, c.Filters = streams[i].name, topic.Subjects()
	return c
}

func public(name string) bool {
	_, known := event.FactNamed(name)
	return known
}

// ticks reports whether the consumer takes ticks, which repeat automatically: they are neither delayed nor
// dead-lettered.
func (c Consumer) ticks() bool { return c.Stream == streamTicks }

// lanes reports whether a backlog of one seller gets a lane: ERPs publish in bursts, and any ERP may publish without an end.
func (c Consumer) lanes() bool { return c.Stream == StreamIntake }

// consumersOf are the consumers of all services.
func consumersOf(services []Service) []Consumer {
	var all []Consumer
	for _, s := range services {
		all = append(all, s.Consumers...)
	}
	return all
}

// DeadLettering are the names, sorted, of the services' consumers that dead-letter what they cannot handle.
func DeadLettering(services []Service) []string {
	var names []string
	for _, c := range consumersOf(services) {
		if !c.ticks() {
			names = append(names, c.Name)
		}
	}
	slices.Sort(names)
	return names
}
