// Package e2e_test holds what only the services together can show.
package e2e_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"stockbridge/pkg/seller"
	"stockbridge/pkg/worker"
	"stockbridge/services/order-pusher/pusher"
	"stockbridge/services/reconciler/reconciler"
	"stockbridge/services/status-poller/poller"
	"stockbridge/services/stock-syncer/syncer"
	"stockbridge/services/vmi-ingester/ingester"
)

// Each sample in deploy/env is read by its service as it is, names every setting of it, and shows the defaults.
func TestSamplesOfSettings(t *testing.T) {
	tests := map[string]func(t *testing.T, sample string){
		"order-pusher.env":  sampleOf[pusher.Config],
		"reconciler.env":    sampleOf[reconciler.Config],
		"status-poller.env": sampleOf[poller.Config],
		"stock-syncer.env":  sampleOf[syncer.Config],
		"vmi-ingester.env":  sampleOf[ingester.Config],
	}
	folder := filepath.Join("..", "..", "deploy", "env")
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		test, ok := tests[e.Name()]
		if !ok {
			t.Errorf("%s belongs to no service here", e.Name())
			continue
		}
		delete(tests, e.Name())
		t.Run(e.Name(), func(t *testing.T) { test(t, filepath.Join(folder, e.Name())) })
	}
	for name := range tests {
		t.Errorf("%s is missing", name)
	}
}

func sampleOf[C any](t *testing.T, sample string) {
	text, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := worker.Settings[C]([]string{"--config", sample}, nil); err != nil {
		t.Error(err)
	}

	var help bytes.Buffer
	if err := worker.Run(t.Context(), "x", []string{"--help"}, nil, &help, func(context.Context, *worker.Shell, C) error { return nil }); err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for _, m := range regexp.MustCompile(`(?m)^([A-Z_]+) +--`).FindAllSubmatch(help.Bytes(), -1) {
		if !bytes.HasSuffix(m[1], []byte("_FILE")) {
			want = append(want, string(m[1]))
		}
		if bytes.HasPrefix(m[1], []byte(seller.DefaultSecretsEnv)) {
			t.Errorf("%s could be read by a set-up as a secret of the seller's", m[1])
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^#?([A-Z_]+)=`).FindAllSubmatch(text, -1) {
		got = append(got, string(m[1]))
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settings in the sample (-want +got):\n%s", diff)
	}

	// A commented-out line is the default: with it and without it the settings are the same.
	base, own, err := worker.Settings[C](nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	commented := regexp.MustCompile(`(?m)^#([A-Z_]+=)`)
	only := commented.ReplaceAll(regexp.MustCompile(`(?m)^[A-Z_]+=.*$`).ReplaceAll(text, nil), []byte("$1"))
	file := filepath.Join(t.TempDir(), "commented.env")
	if err := os.WriteFile(file, only, 0o600); err != nil {
		t.Fatal(err)
	}
	sameBase, sameOwn, err := worker.Settings[C]([]string{"--config", file}, nil)
	if err != nil {
		t.Fatal(err)
	}
	sameBase.CredsFile = base.CredsFile // the one example among the defaults
	if diff := cmp.Diff(base, sameBase); diff != "" {
		t.Errorf("defaults in the sample (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(own, sameOwn); diff != "" {
		t.Errorf("defaults in the sample (-want +got):\n%s", diff)
	}
}
