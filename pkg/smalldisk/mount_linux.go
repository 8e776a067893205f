package smalldisk

import (
	"errors"
	"fmt"
	"syscall"
)

func mount(dir string, bytes int64) error {
	return syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes))
}

func unmount(dir string) error { return syscall.Unmount(dir, syscall.MNT_DETACH) }

func noSpace(err error) bool { return errors.Is(err, syscall.ENOSPC) }
