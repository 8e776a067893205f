package rules_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"

	"stockbridge/pkg/event"
	"stockbridge/pkg/seller"
	orderv1 "stockbridge/proto/order/v1"
)

func read(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{root(t)}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The order that the README shows to an ERP is valid.
func TestReadmeExample(t *testing.T) {
	blocks := regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(read(t, "README.md"), -1)
	if len(blocks) != 1 {
		t.Fatalf("%d JSON examples in the README, want 1", len(blocks))
	}
	o := &orderv1.Audited{}
	if err := protojson.Unmarshal([]byte(blocks[0][1]), o); err != nil {
		t.Fatal(err)
	}
	if err := protovalidate.Validate(o); err != nil {
		t.Error(err)
	}
	if o.Seller != "demo" {
		t.Errorf("it is of seller %q; make run sets up demo", o.Seller)
	}
}

// The examples publish the order that the README shows.
func TestExamplesOrder(t *testing.T) {
	if block := regexp.MustCompile("(?s)```json\n(.*?)```").FindStringSubmatch(read(t, "README.md")); block[1] != read(t, "examples", "order.json") {
		t.Error("examples/order.json is not the README's order")
	}
}

// docs/publish.md says of every field of an order what it is at JD, and of every parameter sent to JD where it comes
// from.
func TestFieldsAreExplained(t *testing.T) {
	_, table, _ := strings.Cut(read(t, "docs", "publish.md"), "## Fields, and what they are at JD")
	table, after, _ := strings.Cut(table, "\n\n`bdOwnerNo`")
	fields, parameters := map[string]bool{}, "`bdOwnerNo`"+strings.SplitN(after, "\n", 2)[0]
	for _, row := range strings.Split(table, "\n") {
		if cells := strings.Split(row, "|"); len(cells) == 5 {
			for _, m := range regexp.MustCompile("`([a-z_.]+)`").FindAllStringSubmatch(cells[1], -1) {
				fields[m[1]] = true
			}
			parameters += cells[3]
		}
	}
	var walk func(prefix string, d protoreflect.MessageDescriptor)
	walk = func(prefix string, d protoreflect.MessageDescriptor) {
		for i := range d.Fields().Len() {
			f := d.Fields().Get(i)
			path := prefix + string(f.Name())
			if f.Kind() == protoreflect.MessageKind && f.Message().ParentFile() == d.ParentFile() {
				walk(path+".", f.Message())
			} else if !fields[path] {
				t.Errorf("docs/publish.md does not say what %s is", path)
			}
			delete(fields, path)
		}
	}
	walk("", (&orderv1.Audited{}).ProtoReflect().Descriptor())
	for path := range fields {
		t.Errorf("docs/publish.md explains %s, which an order does not have", path)
	}
	source := read(t, "pkg", "warehouse", "jd", "jdapi", "order.go")
	_, source, _ = strings.Cut(source, "type AddOrder struct {")
	source, _, _ = strings.Cut(source, "\n}")
	sent := regexp.MustCompile(`json:"(\w+)`).FindAllStringSubmatch(source, -1)
	for _, m := range sent {
		if !strings.Contains(parameters, "`"+m[1]+"`") {
			t.Errorf("docs/publish.md does not say where JD's %s comes from", m[1])
		}
	}
	if len(sent) < 30 {
		t.Errorf("found %d parameters of JD's only", len(sent))
	}
}

// docs/events.md explains the events that are published, and no others.
func TestEventsAreExplained(t *testing.T) {
	text, _, _ := strings.Cut(read(t, "docs", "events.md"), "## Causes of")
	var words []string
	for _, f := range event.Facts() {
		word, _, _ := strings.Cut(f.Name, ".")
		words = append(words, word)
	}
	explained := map[string]bool{}
	for _, m := range regexp.MustCompile("`((?:"+strings.Join(words, "|")+")\\.[a-z.]+)`").FindAllStringSubmatch(text, -1) {
		explained[m[1]] = true
	}
	for _, f := range event.Facts() {
		if seen := !f.FromERP && !f.Reserved; explained[f.Name] != seen {
			t.Errorf("docs/events.md names %s: %v; published: %v", f.Name, explained[f.Name], seen)
		}
		delete(explained, f.Name)
	}
	for name := range explained {
		t.Errorf("docs/events.md names %s, which is no event", name)
	}
}

// The set-up that the guide shows can be applied.
func TestGuidesSetup(t *testing.T) {
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(read(t, "docs", "getting-started.md"), -1)
	if len(blocks) == 0 {
		t.Fatal("no set-up in the guide")
	}
	for _, b := range blocks {
		if _, err := seller.Parse([]byte(b[1])); err != nil {
			t.Error(err)
		}
	}
}

var goTest = regexp.MustCompile(`^(Test|Fuzz|Benchmark|Example)[A-Z]\w*`)

// docs/features.md names paths and tests; each exists. A row's test follows its folder: `folder` TestName.
func TestFeaturesExist(t *testing.T) {
	rows := 0
	for _, line := range strings.Split(read(t, "docs", "features.md"), "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || !regexp.MustCompile(`^ [A-G]\d`).MatchString(cells[1]) {
			continue
		}
		rows++
		id := strings.TrimSpace(cells[1])
		folder := ""
		for _, word := range strings.Fields(cells[3] + " " + cells[4]) {
			if path, isPath := strings.CutPrefix(word, "`"); isPath {
				folder = strings.TrimRight(path, "`,;")
				if _, err := os.Stat(filepath.Join(root(t), folder)); err != nil {
					t.Errorf("%s: %v", id, err)
				}
			} else if name := goTest.FindString(word); name != "" && !declares(t, folder, name) {
				t.Errorf("%s: no %s in %s", id, name, folder)
			}
		}
	}
	if rows == 0 {
		t.Error("docs/features.md has no rows")
	}
}

// declares reports whether the folder has a test of that name.
func declares(t *testing.T, folder, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root(t), folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(files, func(file string) bool {
		text, err := os.ReadFile(file)
		return err == nil && strings.Contains(string(text), "func "+name+"(")
	})
}

// Links between documents lead somewhere.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#\s]+)(#[^)]*)?\)`)
	err := filepath.WalkDir(root(t), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains([]string{".git", "node_modules", "data", "bin"}, d.Name()) {
			return fs.SkipDir
		}
		if filepath.Ext(path) != ".md" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range link.FindAllSubmatch(text, -1) {
			to := string(m[1])
			if strings.Contains(to, "://") || strings.HasPrefix(to, "mailto:") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), to)); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// reasonMakers are functions whose first literal argument is a reason's code.
var reasonMakers = []string{"Broken", "held", "hold", "refuse", "refusal", "ReasonOf", "unusable"}

// givesReasons reports whether a package gives reasons to events: the workers and what they check with. (bridgectl's and
// the set-up's own findings are read by the person who typed the command.)
func givesReasons(short string) bool {
	switch short {
	case "pkg/bus", "pkg/clean", "pkg/seller", "pkg/document/push", "pkg/document/follow":
		return true
	}
	if adapter, isAdapter := strings.CutPrefix(short, "pkg/warehouse/"); isAdapter && !strings.Contains(adapter, "/") {
		return !slices.Contains([]string{"memory", "warehousetest", "callmetrics", "kinds"}, adapter) // what no merchant sees
	}
	if under(short, "pkg/kind/...") {
		return true
	}
	service, isService := strings.CutPrefix(short, "services/")
	name, _, below := strings.Cut(service, "/")
	return isService && below && !slices.Contains([]string{"bridgectl", "e2e", "jd-sandbox"}, name)
}

// Every reason code and every kind of cause that an event may carry is explained in docs/events.md, and nothing else is.
func TestReasonsAreExplained(t *testing.T) {
	_, after, found := strings.Cut(read(t, "docs", "events.md"), "## Reason codes")
	if !found {
		t.Fatal("docs/events.md has no reason codes")
	}
	explained := map[string]bool{}
	for _, line := range strings.Split(after, "\n") {
		if strings.HasPrefix(line, "| `") {
			for _, m := range regexp.MustCompile("`([a-z._]+)`").FindAllStringSubmatch(strings.Split(line, "|")[1], -1) {
				explained[m[1]] = true
			}
		}
	}
	used := map[string]bool{}
	var words []string // with which codes about documents begin, a kind each
	for _, p := range list(t) {
		if under(p.short(), "pkg/kind/...") {
			for _, name := range p.GoFiles {
				for _, m := range codeWord.FindAllStringSubmatch(read(t, strings.Split(p.short(), "/")[0], strings.TrimPrefix(p.short(), "pkg/"), name), -1) {
					words = append(words, m[1])
				}
			}
		}
	}
	if len(words) == 0 {
		t.Error("no kind of documents found")
	}
	for _, p := range list(t) {
		if !givesReasons(p.short()) {
			continue
		}
		for _, name := range p.GoFiles {
			if p.short() == "pkg/seller" && name != "check.go" && name != "trust.go" || strings.HasPrefix(name, "doctor") {
				continue
			}
			tree, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, code := range codes(tree, words) {
				if !explained[code] {
					t.Errorf("%s/%s: reason %q is not in docs/events.md", p.short(), name, code)
				}
				used[code] = true
			}
		}
	}
	for code := range explained {
		if !used[code] {
			t.Errorf("docs/events.md explains %q, which nothing says", code)
		}
	}
	// bridgectl distinguishes a code that does not exist from one without messages.
	known := strings.Fields(read(t, "services", "bridgectl", "ctl", "codes.txt"))
	for code := range explained {
		if !slices.Contains(known, code) {
			t.Errorf("services/bridgectl/ctl/codes.txt lacks %q", code)
		}
	}
	source := read(t, "pkg", "seller", "cause.go")
	for _, m := range regexp.MustCompile(`(cause[A-Z]\w*) += "`).FindAllStringSubmatch(source, -1) {
		_, kinds, _ := strings.Cut(source, "func CauseKinds")
		if kinds, _, _ = strings.Cut(kinds, "\n}\n"); !strings.Contains(kinds, m[1]+",") {
			t.Errorf("CauseKinds lacks %s", m[1])
		}
	}
	for _, m := range regexp.MustCompile(`\bcause[A-Z]\w* += "([a-z-]+)"`).FindAllStringSubmatch(source, -1) {
		if !strings.Contains(read(t, "docs", "events.md"), "| `"+m[1]+":") {
			t.Errorf("cause %q is not in docs/events.md", m[1])
		}
	}
}

// codeWord is where a kind of documents says with which word the codes about its numbers begin.
var codeWord = regexp.MustCompile(`\bCodeWord: +"([a-z]+)"`)

// codes finds the reason codes in a file: the Code of a Reason, and what is passed to the makers of reasons. A code that
// begins with a kind's CodeWord stands for one of each kind.
func codes(tree *ast.File, words []string) []string {
	var found []string
	add := func(e ast.Expr) bool {
		if sum, ok := e.(*ast.BinaryExpr); ok {
			word, isWord := sum.X.(*ast.SelectorExpr)
			rest, isText := sum.Y.(*ast.BasicLit)
			if isWord && isText && word.Sel.Name == "CodeWord" {
				for _, w := range words {
					found = append(found, w+strings.Trim(rest.Value, `"`))
				}
				return true
			}
		}
		lit, ok := e.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return false
		}
		code, err := strconv.Unquote(lit.Value)
		if err == nil && regexp.MustCompile(`^[a-z]+([._][a-z]+)*$`).MatchString(code) {
			found = append(found, code)
		}
		return true
	}
	ast.Inspect(tree, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CompositeLit:
			if sel, ok := n.Type.(*ast.SelectorExpr); !ok || sel.Sel.Name != "Reason" {
				return true
			}
			for _, e := range n.Elts {
				if kv, ok := e.(*ast.KeyValueExpr); ok && kv.Key.(*ast.Ident).Name == "Code" {
					add(kv.Value)
				}
			}
		case *ast.AssignStmt:
			if sel, ok := n.Lhs[0].(*ast.SelectorExpr); ok && sel.Sel.Name == "Code" {
				add(n.Rhs[0])
			}
		case *ast.CallExpr:
			name := ""
			switch f := n.Fun.(type) {
			case *ast.Ident:
				name = f.Name
			case *ast.SelectorExpr:
				name = f.Sel.Name
			}
			if slices.Contains(reasonMakers, name) {
				for _, arg := range n.Args {
					if add(arg) {
						break
					}
				}
			}
		}
		return true
	})
	return found
}

// outside are references that nobody can open who has only this repository.
var outside = regexp.MustCompile(`§|reference/jd-eclp|DESIGN\.md`)

// outsideComment is the same in Go comments, with the numbers of lists of traps and features that are kept elsewhere.
var outsideComment = regexp.MustCompile(`\bDESIGN\b|\bTRAPS\b|\bE\d{1,2}\b|\([A-G]\d{1,2}\)`)

// citesJD is a reference to a section of docs/jd-api.md; whose title may go on in the next line of a comment.
var citesJD = regexp.MustCompile(`docs/jd-api\.md,\s+(?:(?://|#)\s*)?([^\n]*(?:\n\s*//[^\n]*)?)`)

// Nothing points outside the repository, and what is said to stand in docs/jd-api.md stands there.
func TestReferencesCanBeOpened(t *testing.T) {
	var sections []string
	for _, m := range regexp.MustCompile(`(?m)^## (.+)$`).FindAllStringSubmatch(read(t, "docs", "jd-api.md"), -1) {
		sections = append(sections, m[1])
	}
	isSection := func(rest string) bool {
		rest = regexp.MustCompile(`\s*\n\s*//\s*`).ReplaceAllString(rest, " ")
		return slices.ContainsFunc(sections, func(s string) bool { return strings.HasPrefix(rest, s) })
	}
	cited := 0
	for _, file := range sources(t) {
		text := read(t, file)
		if strings.HasSuffix(file, ".pb.go") || file == "services/e2e/rules/docs_test.go" || strings.Contains(text, "\x00") {
			continue
		}
		lineOf := func(at int) int { return strings.Count(text[:at], "\n") + 1 }
		for _, at := range outside.FindAllStringIndex(text, -1) {
			t.Errorf("%s:%d: %q stands outside the repository: state the fact", file, lineOf(at[0]), text[at[0]:at[1]])
		}
		for _, at := range citesJD.FindAllStringSubmatchIndex(text, -1) {
			cited++
			if !isSection(text[at[2]:at[3]]) {
				t.Errorf("%s:%d: docs/jd-api.md has no such section: %q", file, lineOf(at[0]), text[at[2]:at[3]])
			}
		}
		if !strings.HasSuffix(file, ".go") {
			continue
		}
		set := token.NewFileSet()
		tree, err := parser.ParseFile(set, file, text, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, group := range tree.Comments {
			for _, c := range group.List {
				if found := outsideComment.FindString(c.Text); found != "" {
					t.Errorf("%s:%d: %q is in a list outside the repository: state the fact", file, set.Position(c.Pos()).Line, found)
				}
			}
		}
	}
	if cited < 20 {
		t.Errorf("found %d references to docs/jd-api.md only", cited)
	}
}

// sources lists the repository's files, without what is downloaded, built or kept by a run.
func sources(t *testing.T) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(root(t), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains([]string{".git", "node_modules", "data", "bin"}, d.Name()) {
			return fs.SkipDir
		}
		if d.Type().IsRegular() {
			file, err := filepath.Rel(root(t), path)
			if err != nil {
				return err
			}
			files = append(files, filepath.ToSlash(file))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
