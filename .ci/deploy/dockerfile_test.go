package deploy_test

import (
	"context"
	"debug/elf"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

const nobody = 65532

func dockerfile() ([]instructions.Stage, error) {
	f, err := os.Open("../../deploy/docker/Dockerfile")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	tree, err := parser.Parse(f)
	if err != nil {
		return nil, err
	}
	if len(tree.Warnings) > 0 {
		return nil, fmt.Errorf("%+v", tree.Warnings)
	}
	stages, _, err := instructions.Parse(tree.AST, nil)
	return stages, err
}

// one finds the only instruction of its kind in a stage.
func one[C any](t *testing.T, s instructions.Stage) (found C) {
	t.Helper()
	n := 0
	for _, c := range s.Commands {
		if c, ok := c.(C); ok {
			found, n = c, n+1
		}
	}
	if n != 1 {
		t.Fatalf("stage %q has %d %T, want one", s.Name, n, found)
	}
	return found
}

func TestDockerfile(t *testing.T) {
	stages, err := dockerfile()
	if err != nil {
		t.Fatal(err)
	}
	if len(stages) != 2 {
		t.Fatalf("%d stages", len(stages))
	}
	made, shipped := stages[0], stages[1]
	version := regexp.MustCompile(`(?m)^go (\S+)`).FindStringSubmatch(read(t, "go.work"))[1]
	if made.BaseName != "golang:"+version { // its GOTOOLCHAIN is local: an older one refuses our modules
		t.Errorf("built with %s; go.work says %s", made.BaseName, version)
	}
	if shipped.BaseName != "scratch" {
		t.Errorf("shipped on %s", shipped.BaseName)
	}
	if args := one[*instructions.ArgCommand](t, made).Args; len(args) != 1 || args[0].Key != "SERVICE" || args[0].Value != nil {
		t.Errorf("ARG %v: want SERVICE without a default, so that nobody builds the wrong program", args)
	}
	if user := one[*instructions.UserCommand](t, shipped).User; user != fmt.Sprintf("%d:%[1]d", nobody) {
		t.Errorf("USER %s: want a number, which runAsNonRoot can check", user)
	}
	entry := one[*instructions.EntrypointCommand](t, shipped)
	if entry.PrependShell || !slices.Equal(entry.CmdLine, []string{"/service"}) {
		t.Errorf("ENTRYPOINT %v: want the program itself, which gets the signals", entry.CmdLine)
	}
	check := one[*instructions.HealthCheckCommand](t, shipped).Health
	if !slices.Equal(check.Test, []string{"CMD", "/service", "--healthcheck"}) || check.Timeout < 4*time.Second {
		t.Errorf("HEALTHCHECK %v within %v: the program asks itself, and gives up after 3 s", check.Test, check.Timeout)
	}
	for _, c := range shipped.Commands {
		switch c := c.(type) {
		case *instructions.CopyCommand:
			if c.From != made.Name {
				t.Errorf("COPY from %q", c.From)
			}
		case *instructions.RunCommand, *instructions.EnvCommand, *instructions.AddCommand:
			t.Errorf("%s: there is nothing to run, and settings are not baked in", c.Name())
		}
	}
}

// build does by hand what the Dockerfile's first stage does, for each service; the modules come from the local cache.
func build(ctx context.Context) image {
	img := image{folders: map[string]string{}}
	stages, err := dockerfile()
	if err != nil {
		return image{err: err}
	}
	source, err := os.MkdirTemp("", "stockbridge-src-")
	if err != nil {
		return image{err: err}
	}
	defer os.RemoveAll(source)
	var runs []string
	for _, c := range stages[0].Commands {
		switch c := c.(type) {
		case *instructions.CopyCommand:
			for _, from := range c.SourcePaths {
				matches, err := filepath.Glob(filepath.Join("../..", from))
				if err != nil || len(matches) == 0 {
					return image{err: fmt.Errorf("COPY %s: nothing there (%w)", from, err)}
				}
				for _, m := range matches {
					to := filepath.Join(source, c.DestPath)
					if info, err := os.Stat(m); err == nil && !info.IsDir() && (strings.HasSuffix(c.DestPath, "/") || path.Clean(c.DestPath) == ".") {
						to = filepath.Join(to, filepath.Base(m))
					}
					if err := copyTree(m, to); err != nil {
						return image{err: fmt.Errorf("COPY %s: %w", from, err)}
					}
				}
			}
		case *instructions.RunCommand:
			runs = append(runs, strings.Join(c.CmdLine, " "))
		}
	}
	mains, _ := filepath.Glob("../../services/*/main.go")
	for _, m := range mains {
		service := filepath.Base(filepath.Dir(m))
		out, err := os.MkdirTemp("", "stockbridge-image-")
		if err != nil {
			return image{err: err}
		}
		img.folders[service] = out
		for _, run := range runs {
			if run == "go mod download" {
				continue // the whole of three modules; the build fetches what it lacks
			}
			c := exec.CommandContext(ctx, "sh", "-ec", strings.ReplaceAll(run, "/out/", out+"/"))
			c.Dir = source
			c.Env = append(os.Environ(), "SERVICE="+service, "GOWORK=", "GOFLAGS=-buildvcs=false", "GOTOOLCHAIN=local")
			if said, err := c.CombinedOutput(); err != nil {
				img.err = fmt.Errorf("%s: RUN %s: %w\n%s", service, run, err, said)
				return img
			}
		}
		if err := os.Chmod(out, 0o555); err != nil {
			img.err = err
		}
	}
	return img
}

// contained runs a program as in its image: nothing else in the file system, which nobody may write, no environment but
// env, a user without rights. Who may not do that, runs it in the folder as himself.
func contained(t *testing.T, folder string, env, args []string) *exec.Cmd {
	t.Helper()
	c := exec.Command(filepath.Join(folder, "service"), args...)
	c.Env, c.Dir = append([]string{"A=b"}, env...), folder // an empty Env would be ours
	if os.Geteuid() == 0 {
		c.Path, c.Dir = "/service", "/"
		c.SysProcAttr = &syscall.SysProcAttr{Chroot: folder, Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	return c
}

func TestTheImageRuns(t *testing.T) {
	for _, service := range services(t) {
		t.Run(service, func(t *testing.T) {
			folder := program(t, service)
			file, err := elf.Open(filepath.Join(folder, "service"))
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			for _, p := range file.Progs {
				if p.Type == elf.PT_INTERP {
					t.Error("it wants a loader, which the image does not have")
				}
			}
			if service == "bridgectl" {
				if out, err := contained(t, folder, nil, []string{"version"}).CombinedOutput(); err != nil {
					t.Errorf("%v\n%s", err, out)
				}
				return
			}
			addr := free(t)
			// NATS is away: the program lives, is not ready, and waits.
			env, args := []string{"HTTP_ADDR=" + addr, "NATS_URL=nats://127.0.0.1:1"}, []string(nil)
			check := []string{"--healthcheck"}
			if service == "jd-sandbox" {
				env, args = nil, []string{"-addr", addr}
				check = append(check, args...)
			}
			if out, err := contained(t, folder, env, check).CombinedOutput(); err == nil {
				t.Errorf("nothing runs, and the health check is content: %s", out)
			}
			var said lines
			c := contained(t, folder, env, args)
			c.Stdout, c.Stderr = &said, &said
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- c.Wait() }()
			defer c.Process.Kill()
			var last string
			healthy := func() bool {
				out, err := contained(t, folder, env, check).CombinedOutput()
				last = fmt.Sprint(err, " ", string(out))
				return err == nil
			}
			for deadline := time.Now().Add(20 * time.Second); !healthy(); time.Sleep(50 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("the health check: %s\nit said\n%s", last, said.String())
				}
			}
			if err := c.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-ended:
				if err != nil {
					t.Errorf("asked to stop, it ended with %v\n%s", err, said.String())
				}
			case <-time.After(20 * time.Second):
				t.Errorf("asked to stop, it keeps running\n%s", said.String())
			}
		})
	}
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
