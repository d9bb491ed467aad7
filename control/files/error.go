package files

import (
	"errors"
	"fmt"
	"strings"
)

// Origin is where an object was read.
type Origin struct {
	File     string
	Document int // from 1
}

// String is "file, document n".
func (o Origin) String() string {
	if o.File == "" {
		return "(made)"
	}
	return fmt.Sprintf("%s, document %d", o.File, o.Document)
}

// Error is one thing wrong with one object.
type Error struct {
	Origin
	Object string // "Deployment default/web", "" when it could not be told
	Path   string // "spec.template.spec.containers[0].image", "" for the whole
	Err    error
}

// Error implements error: file, document, object, path, what is wrong.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Origin.String())
	for _, s := range []string{e.Object, e.Path} {
		if s != "" {
			b.WriteString(": ")
			b.WriteString(s)
		}
	}
	b.WriteString(": ")
	b.WriteString(e.Err.Error())
	return b.String()
}

// Unwrap returns what is wrong.
func (e *Error) Unwrap() error { return e.Err }

// problems collects errors about objects.
type problems struct {
	list []error
}

func (p *problems) add(o Origin, object, path, format string, args ...any) {
	p.list = append(p.list, &Error{Origin: o, Object: object, Path: path, Err: fmt.Errorf(format, args...)})
}

func (p *problems) err() error { return errors.Join(p.list...) }
