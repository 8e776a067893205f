package worker

import (
	"context"
	"fmt"
	"io"
	"os"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/seller"
)

// Service is a worker as a row: all that is known of it outside its own folder. services/all lists them; topology, NATS
// users, `bridgectl up`, test processes and the tests of settings and metrics follow from that list.
type Service struct {
	bus.Service
	// SellerTicks are the schedules that it needs for a seller, besides its own (bus.Service.Ticks); nil for none. They are
	// for what has to be done at an interval whether anything happened or not: each of them costs something for each seller.
	SellerTicks func(*seller.Seller) []bus.Tick

	// These hide the type of its settings; Define sets them.
	settings    func(args, environ []string) (Config, any, error)
	usage       func(io.Writer)
	serve       func(context.Context, *Shell, any) error
	hurried     func(any) any
	savesMemory bool
}

// Define completes a row with run, which serves with the settings C until ctx ends and its handlers have finished.
func Define[C any](s Service, run func(context.Context, *Shell, C) error) Service {
	s.settings = func(args, environ []string) (Config, any, error) { return Settings[C](args, environ) }
	s.usage = func(to io.Writer) { usage[C](to, s.Name) }
	s.serve = func(ctx context.Context, shell *Shell, own any) error {
		c, ok := own.(C)
		if !ok {
			return fmt.Errorf("settings of %s are a %T, want a %T", s.Name, own, c)
		}
		return run(ctx, shell, c)
	}
	s.hurried = func(own any) any {
		if c, ok := own.(interface{ Hurried() C }); ok {
			return c.Hurried()
		}
		return own
	}
	_, s.savesMemory = any(*new(C)).(SavesMemory)
	return s
}

// Settings reads the service's settings, see the function Settings. own is of the service's own type.
func (s Service) Settings(args, environ []string) (base Config, own any, err error) {
	return s.settings(args, environ)
}

// FromEnvironment is Settings of a service that runs inside another program, which has the flags.
func (s Service) FromEnvironment() (own any, err error) {
	_, own, err = s.settings(nil, os.Environ())
	return own, err
}

// Hurried are the settings for a warehouse whose clock runs fast: those of its method Hurried, if it has one.
func (s Service) Hurried(own any) any { return s.hurried(own) }

// Serve serves with the given settings until ctx ends and its handlers have finished.
func (s Service) Serve(ctx context.Context, shell *Shell, own any) error {
	return s.serve(ctx, shell, own)
}

// BusServices is what the bus knows of the services.
func BusServices(services []Service) []bus.Service {
	rows := make([]bus.Service, len(services))
	for i, s := range services {
		rows[i] = s.Service
	}
	return rows
}
