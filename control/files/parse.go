package files

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// maxSize bounds one file. The API server accepts objects of 1.5 MiB, so this
// is a file of a few of the largest.
const maxSize = 8 << 20

// Parse reads the documents of one file, YAML or JSON. It returns every error it
// finds, joined, each an *Error; a set is returned when there is none. name is
// what errors call the file.
func Parse(name string, data []byte) (*Set, error) {
	if len(data) > maxSize {
		return nil, fmt.Errorf("%s: %d bytes, more than %d: split the file", name, len(data), maxSize)
	}
	p := parser{set: &Set{origins: map[metav1.Object]Origin{}}, kinds: readKinds()}
	for i, doc := range documents(data) {
		p.document(Origin{File: name, Document: i + 1}, doc)
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	setDefaults(p.set)
	return p.set, nil
}

// document is one document of a file.
type document struct {
	text []byte
	line int // of the file, before its first
}

// documents splits a file at lines that begin with "---". Empty ones keep their
// place in the count.
func documents(data []byte) []document {
	data = bytes.TrimPrefix(data, []byte("\uFEFF"))
	if t := bytes.TrimSpace(data); len(t) > 0 && t[0] == '{' && json.Valid(t) {
		return []document{{text: t}}
	}
	var docs []document
	var doc document
	n := 0
	for line := range bytes.Lines(data) {
		rest, ok := bytes.CutPrefix(line, []byte("---"))
		if ok && (len(bytes.TrimSpace(rest)) == 0 || rest[0] == ' ' || rest[0] == '\t') {
			docs = append(docs, doc)
			doc = document{text: slices.Clone(rest), line: n}
		} else {
			doc.text = append(doc.text, line...)
		}
		n++
	}
	docs = append(docs, doc)
	if len(docs) > 1 && blank(docs[0].text) {
		docs = docs[1:] // what stands before a leading "---" is no document
	}
	return docs
}

// blank reports a document of white space and comments alone.
func blank(doc []byte) bool {
	for line := range bytes.Lines(doc) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' {
			return false
		}
	}
	return true
}

type parser struct {
	problems
	set   *Set
	kinds map[string]kind
}

// document reads one document into the set.
func (p *parser) document(o Origin, doc document) {
	if blank(doc.text) {
		return
	}
	text := doc.text
	if !json.Valid(text) {
		var err error
		if text, err = toJSON(text); err != nil {
			p.add(o, "", "", "%w", tidyYAML(err, doc.line))
			return
		}
	}
	if string(bytes.TrimSpace(text)) == "null" {
		return
	}
	p.object(o, text)
}

// toJSON converts YAML, turning the YAML library's panics on absurd input into
// errors: a manifest is a stranger's file.
func toJSON(doc []byte) (text []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("not readable as YAML: %v", r)
		}
	}()
	return yaml.YAMLToJSONStrict(doc)
}

// tidyYAML removes the library's own prefixes and counts lines from the file's
// beginning; before is how many lines come before the document.
func tidyYAML(err error, before int) error {
	words := strings.Fields(err.Error())
	for i, w := range words {
		n, nerr := strconv.Atoi(strings.TrimSuffix(w, ":"))
		if nerr == nil && i > 0 && words[i-1] == "line" {
			words[i] = strconv.Itoa(n+before) + ":"
		}
	}
	s := strings.Join(words, " ")
	for _, prefix := range []string{"error converting YAML to JSON: ", "yaml: ", "unmarshal errors: "} {
		s = strings.TrimPrefix(s, prefix)
	}
	return errors.New(s)
}

// meta is what every object says of itself.
type meta struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Items      []json.RawMessage `json:"items"`
	Metadata   struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
}

// label prints the object as far as its kind and name are told.
func (m *meta) label() string {
	if m.Metadata.Namespace != "" {
		return m.Kind + " " + m.Metadata.Namespace + "/" + m.Metadata.Name
	}
	return m.Kind + " " + m.Metadata.Name
}

// object reads one object, or the objects of a List.
func (p *parser) object(o Origin, text []byte) {
	var m meta
	if err := kjson.UnmarshalCaseSensitivePreserveInts(text, &m); err != nil {
		p.add(o, "", fieldOf(err), "not a Kubernetes object: %w", tidyJSON(err))
		return
	}
	switch {
	case m.Kind == "":
		p.add(o, "", "kind", "missing: every object says apiVersion and kind")
		return
	case m.APIVersion == "":
		p.add(o, m.label(), "apiVersion", "missing: every object says apiVersion and kind")
		return
	case m.Kind == "List" && m.APIVersion == "v1":
		for _, item := range m.Items {
			p.object(o, item)
		}
		return
	}
	k, ok := p.kinds[m.Kind]
	switch {
	case ok && k.apiVersion == m.APIVersion:
		p.typed(o, &m, k, text)
	case wellKnown(m.APIVersion, m.Kind):
		p.set.Skipped = append(p.set.Skipped, m.label())
	case ok:
		p.add(o, m.label(), "apiVersion", "%q is not known for kind %s: write %s", m.APIVersion, m.Kind, k.apiVersion)
	default:
		p.add(o, m.label(), "kind", "%s of %s is not known: the kinds that are read are %s", m.Kind, m.APIVersion, p.kindNames())
	}
}

func (p *parser) kindNames() string {
	var names []string
	for n := range p.kinds {
		names = append(names, n)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// typed decodes an object of a kind that is read.
func (p *parser) typed(o Origin, m *meta, k kind, text []byte) {
	obj := k.make()
	strict, err := kjson.UnmarshalStrict(text, obj)
	if err != nil {
		p.add(o, m.label(), fieldOf(err), "%w", tidyJSON(err))
		return
	}
	for _, err := range strict {
		var fe kjson.FieldError
		path := ""
		if errors.As(err, &fe) {
			path = fe.FieldPath()
		}
		if strings.HasPrefix(err.Error(), "duplicate field") {
			p.add(o, m.label(), path, "written twice")
			continue
		}
		p.add(o, m.label(), path, "unknown field")
	}
	if len(strict) > 0 {
		return
	}
	if m.Metadata.Name == "" {
		p.add(o, m.label(), "metadata.name", "missing: every object has a name")
		return
	}
	switch {
	case !k.namespaced && obj.GetNamespace() != "":
		p.add(o, m.label(), "metadata.namespace", "a %s belongs to no namespace: remove it", m.Kind)
		return
	case k.namespaced && obj.GetNamespace() == "":
		obj.SetNamespace(DefaultNamespace)
	}
	p.set.origins[obj] = o
	k.put(p.set, obj)
}

// fieldOf finds the path in a decoding error, if it tells one.
func fieldOf(err error) string {
	var te *json.UnmarshalTypeError
	if errors.As(err, &te) {
		return te.Field
	}
	return ""
}

// tidyJSON says in people's terms what a decoder complains of.
func tidyJSON(err error) error {
	var te *json.UnmarshalTypeError
	if !errors.As(err, &te) {
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	want := "another value"
	switch te.Type.Kind() {
	case reflect.String:
		want = "text" // 8080, yes and n are no text in YAML unless they are quoted
		if te.Value == "number" || te.Value == "bool" {
			return fmt.Errorf("a %s where text belongs: put quotes round it", te.Value)
		}
	case reflect.Int32, reflect.Int64, reflect.Int, reflect.Float64:
		want = "a number"
	case reflect.Bool:
		want = "true or false"
	case reflect.Slice:
		want = "a list"
	case reflect.Map, reflect.Struct, reflect.Pointer:
		want = "an object"
	}
	return fmt.Errorf("%s where %s belongs", withArticle(te.Value), want)
}

// withArticle prints a JSON type as a noun.
func withArticle(s string) string {
	switch s {
	case "array":
		return "a list"
	case "object":
		return "an object"
	}
	return "a " + s
}
