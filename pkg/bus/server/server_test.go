package server

import (
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// By default the server answers before anything is on the disk, and syncs only every two minutes.
func TestTrapSyncIsConfigured(t *testing.T) {
	for _, always := range []bool{false, true} {
		s, err := Start(Options{Dir: t.TempDir(), Port: RandomPort, SyncAlways: always, Log: zerolog.Nop()})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Stop()
		got := s.ns.JetStreamConfig()
		if got.SyncAlways != always || got.SyncInterval != 2*time.Minute {
			t.Errorf("asked for %v: always %v, every %s", always, got.SyncAlways, got.SyncInterval)
		}
	}
}
