package all_test

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"stockbridge/pkg/seller"
	"stockbridge/pkg/worker"
	"stockbridge/services/all"
)

// Each service has a sample in deploy/env that it can read, that names every setting of it, and that shows the defaults.
func TestSamplesOfSettings(t *testing.T) {
	folder := filepath.Join("..", "..", "deploy", "env")
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	samples := map[string]bool{}
	for _, e := range entries {
		samples[e.Name()] = true
	}
	for _, service := range all.Services() {
		name := service.Name + ".env"
		if !samples[name] {
			t.Errorf("%s is missing", name)
			continue
		}
		delete(samples, name)
		t.Run(name, func(t *testing.T) { testSample(t, service, filepath.Join(folder, name)) })
	}
	for name := range samples {
		t.Errorf("%s belongs to no service", name)
	}
}

func testSample(t *testing.T, service worker.Service, sample string) {
	text, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := service.Settings([]string{"--config", sample}, nil); err != nil {
		t.Error(err)
	}

	var help bytes.Buffer
	if err := worker.Run(t.Context(), service, []string{"--help"}, nil, &help); err != nil {
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

	// What is commented out is the default: with it and without it the settings are the same.
	base, own, err := service.Settings(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	commented := regexp.MustCompile(`(?m)^#([A-Z_]+=)`)
	only := commented.ReplaceAll(regexp.MustCompile(`(?m)^[A-Z_]+=.*$`).ReplaceAll(text, nil), []byte("$1"))
	file := filepath.Join(t.TempDir(), "commented.env")
	if err := os.WriteFile(file, only, 0o600); err != nil {
		t.Fatal(err)
	}
	sameBase, sameOwn, err := service.Settings([]string{"--config", file}, nil)
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
