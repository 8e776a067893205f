package jdapi

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A secret is the current content of its file, however the owner changes it: also right after the last change, when the
// file's time may be equal, and by another file in its place with the same time and size.
func TestASecretIsReadAgainWhenItsFileChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	long := time.Now().Add(-time.Hour)
	write := func(path, text string, at time.Time) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	secret := File(path)
	wants := func(what, want string) {
		t.Helper()
		for range 2 { // the second reading may be a cached one
			if got, err := secret.Read(); err != nil || got.Reveal() != want {
				t.Errorf("%s: %q, want %q (%v)", what, got.Reveal(), want, err)
			}
		}
	}
	write(path, "one", long)
	wants("at first", "one")
	write(path, "two", long.Add(time.Millisecond))
	wants("changed in place", "two")
	now := time.Now()
	write(path, "six", now)
	wants("changed just now", "six")
	write(path, "ten", now)
	wants("changed again within a tick of the file system's clock", "ten")
	write(path, "old", long)
	wants("settled", "old")
	write(path+".new", "new", long)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	wants("replaced by a file of the same time and size", "new")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := secret.Read(); err == nil {
		t.Error("a file that is gone still gives a secret")
	}
}
