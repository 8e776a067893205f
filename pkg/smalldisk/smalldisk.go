// Package smalldisk makes a small file system that can be filled: for tests, and for programs that break things on
// purpose. It does not know what is stored there.
//
// It is a tmpfs on Linux, which root may mount; others use `unshare -Urm make test`. Elsewhere Mount fails.
package smalldisk

import (
	"fmt"
	"os"
	"path/filepath"
)

// Disk is a file system of its own, mounted until Unmount.
type Disk struct {
	// Dir is the mount point.
	Dir string
}

// Mount makes an empty file system of the given size at dir, which it creates when missing.
func Mount(dir string, bytes int64) (*Disk, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := mount(dir, bytes); err != nil {
		return nil, fmt.Errorf("mount a tmpfs at %s (root may; `unshare -Urm` makes one): %w", dir, err)
	}
	return &Disk{dir}, nil
}

func (d *Disk) filler() string { return filepath.Join(d.Dir, ".filler") }

// Fill uses all free space. Later writes fail, unless they fit into a file's last page.
func (d *Disk) Fill() error {
	f, err := os.OpenFile(d.filler(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	page := make([]byte, 4096)
	for err == nil {
		_, err = f.Write(page)
	}
	if !noSpace(err) {
		err = fmt.Errorf("fill %s: %w", d.Dir, err)
		_ = f.Close()
		return err
	}
	return f.Close()
}

// Free releases the space that Fill used.
func (d *Disk) Free() error { return os.Remove(d.filler()) }

// Unmount removes the file system and its content, even with open files.
func (d *Disk) Unmount() error { return unmount(d.Dir) }
