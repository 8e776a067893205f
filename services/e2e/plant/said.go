//go:build unix

package plant

import (
	"bytes"
	"os"

	"stockbridge/services/e2e/procs"
)

// said counts the lines of a process's log that contain text.
func said(p *procs.Process, text string) (int, error) {
	raw, err := os.ReadFile(p.LogFile())
	return bytes.Count(raw, []byte(text)), err
}
