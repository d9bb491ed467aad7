package annotation_test

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
	"unicode"
)

// names reads this package's annotations: constant to key.
func names(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "annotation.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	var text func(e ast.Expr) string
	text = func(e ast.Expr) string {
		switch e := e.(type) {
		case *ast.BasicLit:
			s, _ := strconv.Unquote(e.Value)
			return s
		case *ast.Ident:
			return all[e.Name]
		case *ast.BinaryExpr:
			return text(e.X) + text(e.Y)
		}
		return ""
	}
	for _, d := range file.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, s := range g.Specs {
			v, ok := s.(*ast.ValueSpec)
			if !ok || len(v.Values) != 1 {
				continue
			}
			all[v.Names[0].Name] = text(v.Values[0])
		}
	}
	for name, key := range all {
		// Prefixes end with a slash, other names have none.
		if prefix, rest, ok := strings.Cut(key, "/"); !ok || rest == "" || prefix == "" {
			delete(all, name)
		}
	}
	if len(all) < 15 {
		t.Fatalf("only %d annotations found", len(all))
	}
	return all
}

// Every annotation is on the page, and the page has none that does not exist.
func TestEveryAnnotationIsDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/annotations.md")
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for name, key := range names(t) {
		keys = append(keys, key)
		if !strings.Contains(string(page), "`"+key+"`") {
			t.Errorf("%s (%s) is not in docs/annotations.md", name, key)
		}
	}
	for _, m := range regexp.MustCompile("`([a-z.]*tunmesh\\.io/[a-z-]+)`").FindAllStringSubmatch(string(page), -1) {
		if !slices.Contains(keys, m[1]) {
			t.Errorf("docs/annotations.md has %s, which does not exist", m[1])
		}
	}
}

// Every annotation is read by a program and named by a test.
func TestEveryAnnotationIsReadAndTested(t *testing.T) {
	var program, tests strings.Builder
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if d != nil && (d.Name() == "annotation" || d.Name() == ".git" || d.Name() == "bin") {
				return fs.SkipDir
			}
			return err
		}
		to := &program
		switch {
		case strings.HasSuffix(path, "_test.go"), strings.Contains(path, "/testdata/"):
			to = &tests
		case !strings.HasSuffix(path, ".go"):
			return nil
		}
		raw, err := os.ReadFile(path)
		to.Write(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	read, tested := used(program.String()), used(tests.String())
	for name, key := range names(t) {
		if !read[name] {
			t.Errorf("no program reads %s", name)
		}
		if !tested[name] && !strings.Contains(tests.String(), key) {
			t.Errorf("no test names %s (%s)", name, key)
		}
	}
}

// used are the constants of this package that a text names.
func used(text string) map[string]bool {
	names := map[string]bool{}
	for _, after := range strings.Split(text, "annotation.")[1:] {
		end := strings.IndexFunc(after, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
		if end > 0 {
			names[after[:end]] = true
		}
	}
	return names
}
