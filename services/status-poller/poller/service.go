package poller

import (
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/worker"
)

// Service is the worker as a row.
func Service() worker.Service {
	return worker.Define(worker.Service{
		Service: bus.Service{
			Name: Name, Consumers: []bus.Consumer{bus.ConsumerOf(Name, event.PollDue)},
			Ticks: []bus.Tick{{Kind: event.TickPoll, Every: TickEvery}},
		},
	}, Run)
}

// Hurried are the settings for a sandbox whose clock runs fast: there is more to see.
func (c Config) Hurried() Config {
	c.OpenEvery, c.PackedEvery = min(c.OpenEvery, 5*time.Second), min(c.PackedEvery, 5*time.Second)
	c.ShippedEvery = min(c.ShippedEvery, 15*time.Second)
	return c
}
