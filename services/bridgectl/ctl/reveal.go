package ctl

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// revealed logs that personal data is about to be shown: on stderr, and as a line of JSON in the log. What cannot be
// logged is not shown.
func (a *app) revealed(format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	path := a.RevealLog
	if path == "" {
		dir, err := os.UserConfigDir()
		if err != nil {
			return hint(fmt.Errorf("log the reveal: %w", err), "--reveal-log FILE says where to")
		}
		path = filepath.Join(dir, "bridgectl", "reveal.log")
	}
	line, err := json.Marshal(struct {
		Time    time.Time `json:"time"`
		Level   string    `json:"level"`
		Message string    `json:"message"`
		Who     string    `json:"who"`
		What    string    `json:"what"`
	}{a.now().UTC(), "info", "personal data revealed", a.Who, what})
	if err != nil {
		return err
	}
	if err := appendLine(path, line); err != nil {
		return hint(fmt.Errorf("log the reveal: %w", err), "--reveal-log FILE says where to")
	}
	a.note("revealed to %s: %s (logged in %s)", a.Who, what, path)
	return nil
}

func appendLine(path string, line []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(append(line, '\n')); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
