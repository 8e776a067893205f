package ctl

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/rs/zerolog"
)

// actLog is where this machine keeps who did what: what was replayed, dropped, revealed. The file is made when there is
// something to write; what cannot be written there goes to instead.
type actLog struct {
	path    string
	instead io.Writer

	mu  sync.Mutex
	err error
}

// newActLog writes to path, or to acts.log in the user's folder of configurations.
func newActLog(path string, instead io.Writer) *actLog {
	l := &actLog{path: path, instead: instead}
	if path == "" {
		dir, err := os.UserConfigDir()
		l.path, l.err = filepath.Join(dir, "bridgectl", "acts.log"), err
	}
	return l
}

func (l *actLog) logger() zerolog.Logger {
	return zerolog.New(l).With().Timestamp().Str("service", "bridgectl").Logger()
}

func (l *actLog) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = appendTo(l.path, line)
	}
	if l.err != nil {
		return l.instead.Write(line)
	}
	return len(line), nil
}

func (l *actLog) failed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

func appendTo(path string, line []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(line)
	return errors.Join(err, f.Close())
}

// revealed logs that personal data is about to be shown, and says so. What cannot be logged is not shown.
func (a *app) revealed(format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	log := a.acts.logger()
	log.Info().Str("by", a.Who).Str("what", what).Msg("personal data revealed")
	if err := a.acts.failed(); err != nil {
		return hint(fmt.Errorf("nothing is revealed that cannot be logged: %w", err), "--log FILE says where to")
	}
	a.note("revealed to %s: %s (logged in %s)", a.Who, what, a.acts.path)
	return nil
}
