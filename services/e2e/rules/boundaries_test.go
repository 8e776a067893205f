// Package rules_test checks what the repository's documents promise: who may import whom, where each kind of word
// lives, and that the documents name things that exist.
package rules_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const ours = "stockbridge/"

// mayImport: which of our own packages a package may import, besides those in its own folder. The first matching row
// decides; a package that matches no row is an error, so a new one has to find its place here. "x/..." is x and all
// below.
var mayImport = []struct {
	who string
	may []string
	why string
}{
	{"proto/...", []string{"proto/..."}, "the wire's types stand alone"},
	{"pkg/fault", nil, "marks of errors stand alone"},
	{"pkg/secret", nil, "a string that prints as ***"},
	{"pkg/personal", nil, "text in, text out"},
	{"pkg/retry", []string{"pkg/fault"}, "a loop in process"},
	{"pkg/batch", nil, "a queue of calls"},
	{"pkg/quota", nil, "a list of priorities"},
	{"pkg/trace", nil, "a header and ids"},
	{"pkg/pullmetrics", nil, "calls what it is given"},
	{"pkg/smalldisk", nil, "a file system that can be full"},
	{"pkg/faultproxy", nil, "breaks connections and knows no message"},
	{"pkg/healthcheck", nil, "a question over HTTP"},
	{"pkg/clock", nil, "calls what it is given"},
	{"pkg/clean", []string{"proto/...", "pkg/fault"}, "knows an order and no warehouse"},
	{"pkg/validation", []string{"pkg/fault"}, "the rules are in the .proto files"},
	{"pkg/event", []string{"proto/...", "pkg/fault"}, "facts know no broker"},
	{"pkg/event/asyncapi", []string{"proto/...", "pkg/event"}, "generated from the table of events"},
	{"pkg/bus/...", []string{"proto/...", "pkg/clock", "pkg/fault", "pkg/retry", "pkg/validation", "pkg/pullmetrics", "pkg/trace", "pkg/event", "pkg/bus/..."}, "the bus moves events and knows no business"},
	{"pkg/ledger/redistest", []string{"pkg/faultproxy"}, "starts a Redis, and breaks connections to it"},
	{"pkg/ledger/inkv", []string{"proto/...", "pkg/batch", "pkg/fault", "pkg/quota", "pkg/retry", "pkg/ledger", "pkg/bus"}, "the one ledger that borrows a bucket of the bus"},
	{"pkg/ledger/ledgermetrics", []string{"pkg/fault", "pkg/quota", "pkg/trace", "pkg/ledger"}, "measures any ledger"},
	{"pkg/ledger/...", []string{"proto/...", "pkg/batch", "pkg/fault", "pkg/quota", "pkg/retry", "pkg/ledger"}, "a contract and its adapters never import the bus"},
	{"pkg/kind", []string{"proto/...", "pkg/event", "pkg/fault", "pkg/ledger", "pkg/seller", "pkg/warehouse"}, "what differs between kinds of documents: it calls neither a store nor a warehouse"},
	{"pkg/kind/...", []string{"proto/...", "pkg/clean", "pkg/event", "pkg/fault", "pkg/kind", "pkg/ledger", "pkg/seller", "pkg/warehouse"}, "a row"},
	{"pkg/document/follow", []string{"proto/...", "pkg/fault", "pkg/event", "pkg/bus", "pkg/guard", "pkg/kind", "pkg/ledger", "pkg/quota", "pkg/pullmetrics", "pkg/seller", "pkg/trace", "pkg/warehouse"}, "follows documents of any kind: it knows neither a store nor an adapter nor a kind"},
	{"pkg/document/push", []string{"proto/...", "pkg/batch", "pkg/document", "pkg/fault", "pkg/event", "pkg/bus", "pkg/guard", "pkg/kind", "pkg/ledger", "pkg/quota", "pkg/pullmetrics", "pkg/seller", "pkg/trace", "pkg/warehouse"}, "sends documents of any kind: it knows neither a store nor an adapter nor a kind"},
	{"pkg/document", []string{"pkg/fault", "pkg/ledger"}, "decides: no clock, store, network or text for people"},
	{"pkg/warehouse/jd/jdapi", []string{"pkg/fault", "pkg/quota", "pkg/retry", "pkg/secret", "pkg/personal"}, "JD's names, not ours"},
	{"pkg/jdsandbox/...", []string{"pkg/jdsandbox/..."}, "a JD of its own: it must not share our understanding"},
	{"pkg/warehouse/jd/jdaccount", []string{"proto/...", "pkg/fault", "pkg/warehouse"}, "settings only: it must not know sellers, who ask it"},
	{"pkg/warehouse/callmetrics", []string{"pkg/quota", "pkg/trace"}, "counts any adapter's calls"},
	{"pkg/warehouse/jd", []string{"proto/...", "pkg/clean", "pkg/fault", "pkg/quota", "pkg/retry", "pkg/warehouse", "pkg/warehouse/callmetrics", "pkg/warehouse/jd/jdaccount", "pkg/warehouse/jd/jdapi", "pkg/seller", "pkg/token", "pkg/secret", "pkg/personal"}, "an adapter"},
	{"pkg/warehouse/kinds", []string{"proto/...", "pkg/fault", "pkg/warehouse", "pkg/warehouse/jd/jdaccount", "pkg/warehouse/memory"}, "what adapters say of settings: between the contract and the sellers, who ask it"},
	{"pkg/warehouse/...", []string{"proto/...", "pkg/clean", "pkg/fault", "pkg/quota", "pkg/retry", "pkg/warehouse", "pkg/seller"}, "a contract and its adapters never import the bus"},
	{"pkg/seller", []string{"proto/...", "pkg/warehouse/kinds", "pkg/fault", "pkg/personal", "pkg/retry", "pkg/validation", "pkg/pullmetrics", "pkg/event", "pkg/bus"}, "set-up, kept in a bucket of the bus; it asks what adapters say of accounts, and calls no warehouse"},
	{"pkg/guard", []string{"proto/...", "pkg/fault", "pkg/event", "pkg/bus", "pkg/seller", "pkg/warehouse"}, "judges calls to a warehouse and pauses the seller"},
	{"pkg/book", []string{"pkg/ledger"}, "changes of a book in the ledger, whatever is in it"},
	{"pkg/stock", []string{"pkg/book", "pkg/event", "pkg/ledger"}, "a book in the ledger: it knows neither the bus nor the warehouse"},
	{"pkg/token", []string{"proto/...", "pkg/warehouse/kinds", "pkg/fault", "pkg/retry", "pkg/secret", "pkg/bus", "pkg/pullmetrics", "pkg/seller"}, "tokens, kept in a bucket of the bus; when they end is asked at a scrape"},
	{"pkg/wiring", []string{"proto/...", "pkg/..."}, "puts every adapter together"},
	{"pkg/worker", []string{"proto/...", "pkg/clock", "pkg/fault", "pkg/quota", "pkg/retry", "pkg/pullmetrics", "pkg/trace", "pkg/healthcheck", "pkg/event", "pkg/bus", "pkg/ledger", "pkg/ledger/ledgermetrics", "pkg/warehouse", "pkg/seller", "pkg/guard", "pkg/token", "pkg/wiring"}, "the shell knows contracts"},
	{"services/all", []string{"pkg/bus", "pkg/worker", "services/..."}, "the one list of services"},
	{"services/jd-sandbox/...", []string{"pkg/jdsandbox/...", "pkg/worker", "pkg/healthcheck"}, "main around a JD of its own"},
	{"services/bridgectl/...", []string{"proto/...", "pkg/...", "services/..."}, "bridgectl composes the services"},
	{"services/e2e/...", []string{"proto/...", "pkg/...", "services/..."}, "stories compose the services"},
	{"services/...", []string{"proto/...", "pkg/batch", "pkg/clean", "pkg/fault", "pkg/quota", "pkg/retry", "pkg/pullmetrics", "pkg/trace", "pkg/event", "pkg/bus", "pkg/ledger", "pkg/document/...", "pkg/kind/...", "pkg/book", "pkg/warehouse", "pkg/seller", "pkg/guard", "pkg/stock", "pkg/worker"}, "a service imports no adapter folder and no other service"},
}

// kindHomes name the kinds of accounts: the two tables of adapters, each adapter, and the demo, whose seller is set up for the sandbox.
var kindHomes = []string{"pkg/wiring", "pkg/warehouse/kinds", "pkg/warehouse/jd/...", "pkg/warehouse/memory", "services/bridgectl/stack"}

// adapterFolders are named by the two tables of adapters, by each other, and by tests against the real thing.
var adapterFolders = []string{"pkg/ledger/inredis/...", "pkg/ledger/inkv", "pkg/warehouse/jd/...", "pkg/warehouse/memory"}

// testSupport is for tests and for the programs of services/e2e: no service links it. (jdsandbox is a product: the sandbox.)
var testSupport = []string{"pkg/ledger/ledgertest", "pkg/ledger/redistest", "pkg/warehouse/warehousetest", "pkg/bus/bustest", "pkg/faultproxy"}

// libraryHomes: who may import a library, tests included.
var libraryHomes = []struct {
	library string
	homes   []string
}{
	// The bench's bare loop is what the bus is measured against.
	{"github.com/nats-io/nats.go/...", []string{"pkg/bus/...", "services/e2e/bench"}},
	{"github.com/nats-io/nats-server/...", []string{"pkg/bus/..."}},
	// The bench's pipeline remembers in Redis what a general one would.
	{"github.com/redis/...", []string{"pkg/ledger/inredis/...", "services/e2e/bench"}},
	{"github.com/cenkalti/backoff/...", []string{"pkg/retry"}},
	{"github.com/caarlos0/env/...", []string{"pkg/worker"}},
	{"go.opentelemetry.io/otel/exporters/...", []string{"pkg/worker"}},
	{"go.opentelemetry.io/otel/sdk/...", []string{"pkg/worker", "pkg/bus", "services/e2e"}}, // tests make their own provider
}

// wordHomes: which string literals live where, in code that ships; tests may spell them as an outsider would.
var wordHomes = []struct {
	kind  string
	word  *regexp.Regexp
	homes []string
}{
	{"subject", nil, []string{"pkg/event"}}, // the topics' names, read from pkg/event
	{"internal subject", regexp.MustCompile(`^(tick|due|park|retry|dlq|held)\.`), []string{"pkg/event"}},
	{"Redis command or script", regexp.MustCompile(`redis\.p?call\(`), []string{"pkg/ledger/inredis/..."}},
	{"JD's method", regexp.MustCompile(`jingdong[._]|\beclp\.`), []string{"pkg/warehouse/jd/...", "pkg/jdsandbox/..."}},
	{"name of JD", regexp.MustCompile(`\bJD\b|京东|\bECLP\b`), []string{"pkg/warehouse/jd/...", "pkg/jdsandbox/...", "services/jd-sandbox/...", "services/bridgectl/stack"}}, // stack plays the sandbox
	{"status code of JD", regexp.MustCompile(`^100(09|1\d|28|29|3\d)$`), []string{"pkg/warehouse/jd/...", "pkg/jdsandbox/..."}},
}

// drawers are names that say nothing about the content.
var drawers = []string{"util", "utils", "common", "core", "helper", "helpers", "misc", "shared", "base", "lib", "internal", "types", "models", "manager"}

type pkg struct {
	ImportPath, Dir, Name              string
	GoFiles, TestGoFiles, XTestGoFiles []string
	Imports, TestImports, XTestImports []string
	Deps                               []string
}

// short is the path inside the repository.
func (p pkg) short() string { return strings.TrimPrefix(p.ImportPath, ours) }

func TestImports(t *testing.T) {
	packages := list(t)
	for _, p := range packages {
		row := slices.IndexFunc(mayImport, func(r struct {
			who string
			may []string
			why string
		}) bool {
			return under(p.short(), r.who)
		})
		if row < 0 {
			t.Errorf("%s has no row in mayImport: which packages may it know?", p.short())
			continue
		}
		for _, imported := range p.Imports {
			to, isOurs := strings.CutPrefix(imported, ours)
			if isOurs && !underAny(to, mayImport[row].may) && !sameService(p.short(), to) {
				t.Errorf("%s imports %s: %s", p.short(), to, mayImport[row].why)
			}
			if isOurs && underAny(to, testSupport) && !underAny(p.short(), append([]string{"services/e2e/..."}, testSupport...)) {
				t.Errorf("%s imports %s outside its tests", p.short(), to)
			}
			if underAny(to, adapterFolders) && isOurs && !underAny(p.short(), append([]string{"pkg/wiring", "pkg/warehouse/kinds"}, adapterFolders...)) {
				t.Errorf("%s names the adapter %s: only pkg/wiring and pkg/warehouse/kinds do", p.short(), to)
			}
		}
		// A contract's own tests run its suite over its adapters; otherwise tests may import what their package may.
		for _, imported := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			for _, l := range libraryHomes {
				if under(imported, l.library) && !underAny(p.short(), l.homes) {
					t.Errorf("%s imports %s: only %s may", p.short(), imported, l.homes)
				}
			}
		}
	}
}

// pkg/wiring imports the adapter NAME of a warehouse in NAME.go only: the rest of it opens any warehouse.
func TestAnAdapterIsNamedInOneFileOfTheWiring(t *testing.T) {
	for _, p := range list(t) {
		if p.short() != "pkg/wiring" {
			continue
		}
		for _, name := range p.GoFiles {
			tree, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.ImportsOnly)
			if err != nil {
				t.Fatal(err)
			}
			for _, spec := range tree.Imports {
				at := strings.TrimPrefix(strings.Trim(spec.Path.Value, `"`), ours)
				below, isWarehouse := strings.CutPrefix(at, "pkg/warehouse/")
				adapter, _, _ := strings.Cut(below, "/")
				if isWarehouse && underAny(at, adapterFolders) && name != adapter+".go" {
					t.Errorf("pkg/wiring/%s imports %s: only %s.go does", name, at, adapter)
				}
			}
		}
	}
}

// Test code stays separate: a program that links package testing carries a test helper to its users.
func TestProgramsAreFreeOfTestCode(t *testing.T) {
	programs := 0
	for _, p := range list(t) {
		if p.Name != "main" {
			continue
		}
		programs++
		for _, dep := range p.Deps {
			if dep == "testing" || dep == "net/http/httptest" {
				t.Errorf("%s links %s", p.short(), dep)
			}
		}
	}
	if programs == 0 {
		t.Error("no program found")
	}
}

func TestWordsAtHome(t *testing.T) {
	topics := topicNames(t)
	for _, p := range list(t) {
		for _, name := range p.GoFiles {
			file := filepath.Join(p.Dir, name)
			set := token.NewFileSet()
			tree, err := parser.ParseFile(set, file, nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if ast.IsGenerated(tree) {
				continue
			}
			if under(p.short(), "services/e2e/...") {
				continue // stories spell things as an outsider would
			}
			where := func(n ast.Node) string { return fmt.Sprintf("%s/%s:%d", p.short(), name, set.Position(n.Pos()).Line) }
			tags := settingTags(tree)
			ast.Inspect(tree, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.ImportSpec:
					return false
				case *ast.SelectorExpr:
					if strings.HasPrefix(n.Sel.Name, "Account_KIND_") && !underAny(p.short(), kindHomes) {
						t.Errorf("%s: %s; what depends on the kind of an account is the adapter's (warehouse.Kind)", where(n), n.Sel.Name)
					}
					if from, ok := n.X.(*ast.Ident); ok && from.Name == "os" && slices.Contains([]string{"Getenv", "LookupEnv", "Environ"}, n.Sel.Name) && !underAny(p.short(), environmentHomes) {
						t.Errorf("%s: os.%s; settings come from pkg/worker", where(n), n.Sel.Name)
					}
				case *ast.Field:
					if n.Tag != nil && strings.Contains(n.Tag.Value, `env:"`) && !tags[n] && p.short() != "pkg/worker" {
						t.Errorf("%s: an env: tag outside a struct named Config", where(n))
					}
				case *ast.KeyValueExpr: // a reason's code may read like a subject
					if key, ok := n.Key.(*ast.Ident); ok && key.Name == "Code" {
						return false
					}
				case *ast.BasicLit:
					if n.Kind != token.STRING {
						return true
					}
					value, err := strconv.Unquote(n.Value)
					if err != nil {
						t.Fatal(err)
					}
					for _, w := range wordHomes {
						found := w.word != nil && w.word.MatchString(value) || w.word == nil && isSubject(value, topics)
						if found && !underAny(p.short(), w.homes) {
							t.Errorf("%s: %q is a %s: only %s spells those", where(n), value, w.kind, w.homes)
						}
					}
				}
				return true
			})
		}
	}
}

// environmentHomes may read the environment: the settings, and the one place that turns a seller's SecretRef into a
// secret.
var environmentHomes = []string{"pkg/worker", "pkg/wiring", "pkg/seller"}

func TestNoDrawers(t *testing.T) {
	for _, p := range list(t) {
		for _, part := range strings.Split(p.short(), "/") {
			if slices.Contains(drawers, part) {
				t.Errorf("%s: %q does not say what lies inside; find the noun", p.short(), part)
			}
		}
	}
}

// One folder a program: a service's main.go is one statement, and its runbook is beside it.
func TestServicesAreWhole(t *testing.T) {
	for _, p := range list(t) {
		service, ok := strings.CutPrefix(p.short(), "services/")
		if !ok || p.Name != "main" || strings.Contains(service, "/") || service == "bridgectl" || service == "jd-sandbox" {
			continue
		}
		if _, err := os.Stat(filepath.Join(p.Dir, "README.md")); err != nil {
			t.Errorf("%s has no runbook: %v", p.short(), err)
		}
		tree, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, "main.go"), nil, 0)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, d := range tree.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && len(f.Body.List) != 1 {
				t.Errorf("%s: %s has %d statements; the process is the package's Run", p.short(), f.Name.Name, len(f.Body.List))
			}
		}
	}
}

// settingTags are the fields of structs that are named Config.
func settingTags(tree *ast.File) map[*ast.Field]bool {
	found := map[*ast.Field]bool{}
	ast.Inspect(tree, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok || spec.Name.Name != "Config" {
			return true
		}
		ast.Inspect(spec, func(n ast.Node) bool {
			if f, ok := n.(*ast.Field); ok {
				found[f] = true
			}
			return true
		})
		return false
	})
	return found
}

// topicNames reads the names of the topics from the source of pkg/event.
func topicNames(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root(t), "pkg", "event", "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`Topic\[[^]]+\]\{"([a-z.]+)"\}`).FindAllSubmatch(source, -1) {
			names = append(names, string(m[1]))
		}
	}
	if len(names) < 10 {
		t.Fatalf("only these topics found in pkg/event: %v", names)
	}
	return names
}

func isSubject(value string, topics []string) bool {
	return slices.ContainsFunc(topics, func(topic string) bool {
		return value == topic || strings.HasPrefix(value, topic+".")
	})
}

// under reports whether a path is the pattern, or lies below a pattern that ends in "/...".
func under(at, pattern string) bool {
	if folder, ok := strings.CutSuffix(pattern, "/..."); ok {
		return at == folder || strings.HasPrefix(at, folder+"/")
	}
	return at == pattern
}

func underAny(at string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return under(at, p) })
}

func sameService(a, b string) bool {
	if !strings.HasPrefix(a, "services/") {
		return path.Dir(b) == a
	}
	return strings.HasPrefix(b, strings.Join(strings.SplitN(a, "/", 3)[:2], "/")+"/")
}

var listed []pkg

// list is every package of the workspace.
func list(t *testing.T) []pkg {
	t.Helper()
	if listed != nil {
		return listed
	}
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Dir,Name,GoFiles,TestGoFiles,XTestGoFiles,Imports,TestImports,XTestImports,Deps",
		"./proto/...", "./pkg/...", "./services/...")
	cmd.Dir = root(t)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return listed
		}
		if err != nil {
			t.Fatal(err)
		}
		listed = append(listed, p)
	}
}

// root is the repository's top folder.
func root(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); !errors.Is(err, fs.ErrNotExist) {
			return dir
		}
	}
	t.Fatal("no go.work above the test")
	return ""
}
