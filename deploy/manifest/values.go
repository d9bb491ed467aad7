package manifest

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"

	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/strvals"
	"sigs.k8s.io/yaml"

	"github.com/tunmesh/tunmesh/deploy"
)

// Values are the chart's, or what is to be put over them.
type Values map[string]any

// Flags are where values come from, by Helm's names and in Helm's order: files,
// then --set, --set-string and --set-file, each over what was before it.
type Flags struct {
	Files, Set, SetString, SetFile []string
}

// Over returns base with what the flags say put over it.
func (f Flags) Over(base Values) (Values, error) {
	out := base.Merge(nil)
	for _, name := range f.Files {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("--values: %w", err)
		}
		v, err := Read(text)
		if err != nil {
			return nil, fmt.Errorf("--values %s: %w", name, err)
		}
		out = out.Merge(v)
	}
	for _, s := range f.Set {
		if err := strvals.ParseInto(s, out); err != nil {
			return nil, fmt.Errorf("--set %s: %w", s, err)
		}
	}
	for _, s := range f.SetString {
		if err := strvals.ParseIntoString(s, out); err != nil {
			return nil, fmt.Errorf("--set-string %s: %w", s, err)
		}
	}
	for _, s := range f.SetFile {
		content := func(name []rune) (any, error) {
			text, err := os.ReadFile(string(name))
			return string(text), err
		}
		if err := strvals.ParseIntoFile(s, out, content); err != nil {
			return nil, fmt.Errorf("--set-file %s: %w", s, err)
		}
	}
	return out, nil
}

// Read reads values from YAML.
func Read(text []byte) (Values, error) {
	v, err := loader.LoadValues(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("read values: %w", err)
	}
	return v, nil
}

// HighAvailability are the values of --ha.
func HighAvailability() (Values, error) {
	text, err := fs.ReadFile(deploy.Chart(), "values-ha.yaml")
	if err != nil {
		return nil, fmt.Errorf("read the chart: %w", err)
	}
	return Read(text)
}

// Merge returns a copy with over put over it.
func (v Values) Merge(over Values) Values {
	return loader.MergeMaps(loader.MergeMaps(map[string]any{}, v), over)
}

// YAML writes the values.
func (v Values) YAML() ([]byte, error) {
	text, err := yaml.Marshal(map[string]any(v))
	if err != nil {
		return nil, fmt.Errorf("write values: %w", err)
	}
	return text, nil
}

// At is the value at a path, nil where there is none.
func (v Values) At(path ...string) any {
	var at any = map[string]any(v)
	for _, p := range path {
		m, ok := at.(map[string]any)
		if !ok {
			return nil
		}
		at = m[p]
	}
	return at
}

// Text is the string at a path, "" where there is none.
func (v Values) Text(path ...string) string {
	s, _ := v.At(path...).(string)
	return s
}

// Is reports whether there is true at a path.
func (v Values) Is(path ...string) bool {
	b, _ := v.At(path...).(bool)
	return b
}

// With returns a copy with a value at a path.
func (v Values) With(value any, path ...string) Values {
	for i := len(path) - 1; i >= 0; i-- {
		value = map[string]any{path[i]: value}
	}
	return v.Merge(value.(map[string]any))
}
