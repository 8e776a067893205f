package ctl

import (
	"os"
	"path/filepath"
	"testing"

	"stockbridge/pkg/token"
	"stockbridge/services/bridgectl/stack"
)

// With an `up` in its default folder nobody has to name the key; for any other broker it must be named.
func TestTheKeyOfUpIsFound(t *testing.T) {
	t.Chdir(t.TempDir())
	a := &app{Config: &Config{}}
	if keys, err := a.tokenKeys(); err != nil || !keys.None() {
		t.Errorf("%v, %v", keys.None(), err)
	}
	path := stack.TokenKeyFile(usualData)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(token.NewKey().Reveal()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if keys, err := a.tokenKeys(); err != nil || keys.None() {
		t.Errorf("%v, %v", keys.None(), err)
	}
	a.NATSURL = "nats://elsewhere:4222"
	if keys, err := a.tokenKeys(); err != nil || !keys.None() {
		t.Errorf("%v, %v", keys.None(), err)
	}
	a.TokenKeyFile = path
	if keys, err := a.tokenKeys(); err != nil || keys.None() {
		t.Errorf("%v, %v", keys.None(), err)
	}
	a.TokenKey = "both"
	if _, err := a.tokenKeys(); err == nil {
		t.Error("both were taken")
	}
}
