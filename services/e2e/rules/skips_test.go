package rules_test

import (
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// A test that is skipped proves nothing, and nobody notices: it fails, or a build tag names it.
func TestNothingIsSkipped(t *testing.T) {
	t.Parallel()
	skip := regexp.MustCompile(`\b[tb]\.Skip(Now|f)?\(`)
	for _, p := range list(t) {
		for _, name := range slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles) {
			file, err := filepath.Rel(root(t), filepath.Join(p.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if call := skip.FindString(read(t, file)); call != "" {
				t.Errorf("%s has %s…)", file, call)
			}
		}
	}
}
