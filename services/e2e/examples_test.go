package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"stockbridge/services/e2e/testenv"
)

// The examples for ERP teams work: each program publishes its order and waits for the outcome, and the order is at JD
// once, also when the program is run again.
func TestExamples(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{Ledger: "kv"})
	examples, err := filepath.Abs(filepath.Join("..", "..", "examples"))
	if err != nil {
		t.Fatal(err)
	}
	sample, err := os.ReadFile(filepath.Join(examples, "order.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		folder  string
		command []string
	}{
		{"node", []string{"node", "publish.mjs"}},
		{"go", []string{"go", "run", "."}},
		{"php", []string{"php", "publish.php"}},
	} {
		t.Run(c.folder, func(t *testing.T) {
			publish := func(number string, order []byte) (string, error) {
				file := filepath.Join(t.TempDir(), "order.json")
				order = bytes.ReplaceAll(order, []byte("SO-1001"), []byte(number))
				order = bytes.ReplaceAll(order, []byte("2754381920561"), []byte("TB-"+number)) // another sale, or it would be sold twice
				if err := os.WriteFile(file, order, 0o600); err != nil {
					t.Fatal(err)
				}
				run := exec.CommandContext(t.Context(), c.command[0], append(c.command[1:], file)...)
				run.Dir, run.Env = filepath.Join(examples, c.folder), append(os.Environ(), "NATS_URL="+w.NATSURL, "GOWORK=off")
				out, err := run.CombinedOutput()
				return string(out), err
			}
			for range 2 {
				out, err := publish("EX-"+c.folder, sample)
				if err != nil || !strings.Contains(out, "order.accepted") {
					t.Fatalf("%v (is `make examples-deps` done?)\n%s", err, out)
				}
			}
			if docs := w.JD.Documents("EX-" + c.folder + "-1"); len(docs) != 1 {
				t.Errorf("JD has %d documents", len(docs))
			}
			wrong := bytes.Replace(sample, []byte(`"quantity": 2`), []byte(`"quantity": -2`), 1)
			if out, err := publish("BAD-"+c.folder, wrong); err == nil || !strings.Contains(out, "lines[0].quantity") {
				t.Errorf("a wrong order: %v\n%s", err, out)
			}
		})
	}
	w.NoViolations()
}
