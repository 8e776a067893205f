package plant_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"stockbridge/services/e2e/plant"
)

func root(t *testing.T) string {
	t.Helper()
	dir, err := plant.Root(".")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// A refactoring must not quietly disarm a bug: each edit still finds its text, and the result still compiles.
func TestEachBugCanStillBePlanted(t *testing.T) {
	scenarios := map[string]bool{}
	for _, s := range plant.Scenarios() {
		scenarios[s.Name] = true
	}
	all := plant.Bug{Name: "all"} // they do not conflict, and one build is quicker than eight
	var packages []string
	for _, b := range plant.Bugs() {
		if _, err := b.Overlay(root(t), t.TempDir()); err != nil {
			t.Error(err)
		}
		for _, e := range b.Edits {
			packages = append(packages, "stockbridge/"+strings.TrimSuffix(filepath.Dir(e.File), "/lua"))
		}
		all.Edits = append(all.Edits, b.Edits...)
		for _, name := range b.Scenarios {
			if !scenarios[name] {
				t.Errorf("%s: no scenario %q", b.Name, name)
			}
		}
		if len(b.Scenarios) == 0 || len(b.CaughtBy) == 0 {
			t.Errorf("%s: nothing says how it is caught", b.Name)
		}
	}
	file, err := all.Overlay(root(t), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(packages)
	c := exec.Command("go", append([]string{"build", "-overlay", file}, slices.Compact(packages)...)...)
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("does not compile: %v\n%s", err, out)
	}
}

func TestAnEditWhoseTextIsGoneIsAnError(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]string{"old code": "stands 0 times", "here, and here": "stands 2 times"} {
		if err := os.WriteFile(filepath.Join(dir, "x.go"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := plant.Bug{Name: "x", Edits: []plant.Edit{{"x.go", "here", "there"}}}.Overlay(dir, t.TempDir())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := plant.Find("no-such"); err == nil || !strings.Contains(err.Error(), plant.BlindRepeat) {
		t.Errorf("an unknown bug: %v", err)
	}
}
