package rules_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// plainFolders name and describe things in the field's words only; docs/glossary.md has them.
var plainFolders = []string{
	"pkg", "proto", "services",
}

// plainPages are documents to which the same rule applies, besides those in plainFolders.
var plainPages = []string{"README.md", "CONTRIBUTING.md", "docs/*.md", "deploy/CHANGES.md", "examples/*.md"}

// dialect finds words that once stood for what the field has a word for: publish, report, warehouse, dead letter, delay,
// fix, restore.
var dialect = regexp.MustCompile(`(?i)\b(far\s+side|tell|tells|told|telling|shel(f|ve|ves|ved|ving)|unpark\w*|unserved|whoever|mend(s|ed|ing)?|put(s|ting)?\s+back)\b`)

// quoted are texts in comments and documents that cite what a program stores or prints.
var quoted = regexp.MustCompile("(?s:```.*?```)|`[^`]*`|\"[^\"\n]*\"")

// words separates the words of a name: "readJSONPage" is "read JSON Page".
func words(name string) string {
	name = regexp.MustCompile(`([A-Z]+)([A-Z][a-z])`).ReplaceAllString(name, "$1 $2")
	return regexp.MustCompile(`([a-z0-9])([A-Z])`).ReplaceAllString(name, "$1 $2")
}

func TestPlainWords(t *testing.T) {
	t.Parallel()
	top := root(t)
	check := func(where, text string) {
		if word := dialect.FindString(quoted.ReplaceAllString(text, "")); word != "" {
			t.Errorf("%s says %q: docs/glossary.md has the field's word", where, word)
		}
	}
	for _, pattern := range plainPages {
		pages, err := filepath.Glob(filepath.Join(top, pattern))
		if err != nil || len(pages) == 0 {
			t.Fatal(pattern, err)
		}
		for _, page := range pages {
			name, _ := filepath.Rel(top, page)
			check(name, read(t, filepath.SplitList(name)...))
		}
	}
	for _, folder := range plainFolders {
		err := filepath.WalkDir(filepath.Join(top, folder), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasSuffix(path, ".pb.go") {
				return err
			}
			name, _ := filepath.Rel(top, path)
			switch filepath.Ext(path) {
			case ".md":
				check(name, read(t, name))
			case ".go":
				set := token.NewFileSet()
				tree, err := parser.ParseFile(set, path, nil, parser.ParseComments)
				if err != nil {
					return err
				}
				for _, c := range tree.Comments {
					check(set.Position(c.Pos()).String(), c.Text())
				}
				for _, name := range names(tree) {
					check(set.Position(name.Pos()).String(), words(name.Name))
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// names are what a file declares: packages' objects, methods, fields, parameters, variables.
func names(tree *ast.File) (list []*ast.Ident) {
	ast.Inspect(tree, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			list = append(list, n.Name)
		case *ast.Field:
			list = append(list, n.Names...)
		case *ast.TypeSpec:
			list = append(list, n.Name)
		case *ast.ValueSpec:
			list = append(list, n.Names...)
		case *ast.AssignStmt:
			if n.Tok == token.DEFINE {
				for _, e := range n.Lhs {
					if name, ok := e.(*ast.Ident); ok {
						list = append(list, name)
					}
				}
			}
		case *ast.RangeStmt:
			for _, e := range []ast.Expr{n.Key, n.Value} {
				if name, ok := e.(*ast.Ident); ok && n.Tok == token.DEFINE {
					list = append(list, name)
				}
			}
		}
		return true
	})
	return list
}

func TestDialectIsFound(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"it is\nput back", "the far side", "Told", words("untilTold"), words("putBack"), words("JDShelf"), words("FarSide")} {
		if !dialect.MatchString(text) {
			t.Errorf("%q is not found", text)
		}
	}
	if dialect.MatchString(words("tellurian")) || dialect.MatchString(quoted.ReplaceAllString("the metric `stockbridge_x` and \"shelf\"", "")) {
		t.Error("found where there is none")
	}
}
