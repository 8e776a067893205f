// Package deploy_test checks what is deployed: docker-compose.yml, the Dockerfile and the Helm chart, each by the library
// that the tool itself is made of. It is a module of its own, so that Kubernetes' and Docker's dependencies stay out of
// what runs; `make chart` runs it. What a program knows it learns from the program: it builds each as the Dockerfile says.
package deploy_test

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"testing"
)

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{root(t)}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// services are the programs: the folders of services/ that hold a main package.
func services(t *testing.T) []string {
	t.Helper()
	mains, err := filepath.Glob(filepath.Join(root(t), "services", "*", "main.go"))
	if err != nil || len(mains) < 4 {
		t.Fatalf("only %d programs found: %v", len(mains), err)
	}
	var names []string
	for _, m := range mains {
		names = append(names, filepath.Base(filepath.Dir(m)))
	}
	return names
}

// workers are the services that serve events: all but the operator's tool and JD's understudy.
func workers(t *testing.T) []string {
	t.Helper()
	return slices.DeleteFunc(services(t), func(name string) bool { return name == "bridgectl" || name == "jd-sandbox" })
}

// image is what the Dockerfile makes: for each service the program, alone in a folder.
type image struct {
	folders map[string]string
	err     error
}

var built = sync.OnceValue(func() image { return build(context.Background()) })

// program is the folder that stands for the service's image.
func program(t *testing.T, service string) string {
	t.Helper()
	img := built()
	if img.err != nil {
		t.Fatal(img.err)
	}
	folder, ok := img.folders[service]
	if !ok {
		t.Fatalf("no program %s", service)
	}
	return folder
}

var settingLine = regexp.MustCompile(`(?m)^([A-Z][A-Z0-9_]+) +--|\(\$([A-Z][A-Z0-9_]+)\)`)

// settings are the environment variables that a program says it knows.
func settings(t *testing.T, service string) []string {
	t.Helper()
	var out bytes.Buffer
	c := exec.Command(filepath.Join(program(t, service), "service"), "--help")
	c.Stdout, c.Stderr = &out, &out
	if err := c.Run(); err != nil {
		t.Fatalf("%s --help: %v\n%s", service, err, out.String())
	}
	var names []string
	for _, m := range settingLine.FindAllStringSubmatch(out.String(), -1) {
		names = append(names, m[1]+m[2])
	}
	if len(names) < 3 && service != "jd-sandbox" { // which has flags only
		t.Fatalf("%s knows only %v", service, names)
	}
	return names
}

// sellersSecrets are variables that sellers' set-ups may name: secrets of a warehouse, no settings of a program.
var sellersSecrets = []string{"JD_APP_SECRET", "JD_ACCESS_TOKEN"}

// fewNeed are settings of bridgectl that only the help of the commands shows which need them.
var fewNeed = []string{"SELLER_HTTP_HOSTS"}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, folder := range built().folders {
		_ = os.RemoveAll(folder)
	}
	os.Exit(code)
}

// copyTree copies files and folders, over what is there, without what .dockerignore leaves out.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(at string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if d.Name() == "node_modules" || d.Name() == "third_party" {
				return fs.SkipDir
			}
			return nil
		}
		below, err := filepath.Rel(from, at)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(at)
		if err != nil {
			return err
		}
		target := filepath.Join(to, below)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		return os.WriteFile(target, data, 0o644)
	})
}

// lines is what a program writes, readable while it writes.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
