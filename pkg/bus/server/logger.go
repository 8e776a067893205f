package server

import (
	"fmt"
	"sync"

	"github.com/rs/zerolog"
)

// logger forwards the server's log. Its notices are many and about itself: debug.
type logger struct {
	log   zerolog.Logger
	fatal *lastFatal
}

func (l logger) Noticef(format string, v ...any) { l.log.Debug().Msgf(format, v...) }
func (l logger) Warnf(format string, v ...any)   { l.log.Warn().Msgf(format, v...) }
func (l logger) Errorf(format string, v ...any)  { l.log.Error().Msgf(format, v...) }
func (l logger) Debugf(format string, v ...any)  { l.log.Trace().Msgf(format, v...) }
func (l logger) Tracef(format string, v ...any)  { l.log.Trace().Msgf(format, v...) }

// Fatalf is followed by the server's shutdown, which Start reports.
func (l logger) Fatalf(format string, v ...any) {
	l.fatal.set(fmt.Sprintf(format, v...))
	l.log.Error().Msgf(format, v...)
}

type lastFatal struct {
	mu   sync.Mutex
	said string
}

func (f *lastFatal) set(s string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.said = s
}

func (f *lastFatal) text() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.said
}
