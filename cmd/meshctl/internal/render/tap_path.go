package render

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"k8s.io/client-go/util/jsonpath"

	"github.com/tunmesh/tunmesh/api/tap"
)

// TapPath prints parts of events, a line each.
type TapPath struct{ template *jsonpath.JSONPath }

// NewTapPath reads a template as kubectl's -o jsonpath takes it. What an event
// does not have is left out.
func NewTapPath(template string) (*TapPath, error) {
	t := jsonpath.New("event").AllowMissingKeys(true)
	if err := t.Parse(template); err != nil {
		return nil, fmt.Errorf("jsonpath %q: %w", template, err)
	}
	return &TapPath{t}, nil
}

// Print prints what the template says of an event; nothing where that is nothing.
func (t *TapPath) Print(w io.Writer, e *tap.Event) error {
	var raw bytes.Buffer
	if err := TapJSON(&raw, e); err != nil {
		return err
	}
	var doc map[string]any
	if err := json.Unmarshal(raw.Bytes(), &doc); err != nil {
		return fmt.Errorf("read the event: %w", err)
	}
	var line bytes.Buffer
	if err := t.template.Execute(&line, doc); err != nil {
		return fmt.Errorf("evaluate the jsonpath: %w", err)
	}
	if line.Len() == 0 {
		return nil
	}
	_, err := fmt.Fprintln(w, clean(line.String()))
	return err
}
