package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/tunmesh/tunmesh/deploy"
)

// Namespaces of what the chart renders. They are part of identities and of what
// sidecars are told, and so no values.
const (
	Namespace    = "tunmesh"
	CNINamespace = "tunmesh-cni"
)

// ComponentLabel is on every object of the chart.
const ComponentLabel = "tunmesh.io/component"

// The components.
const (
	Control = "control"
	CNI     = "cni"
	View    = "view"
)

// Render returns the chart's objects, in the order in which they can be made.
// Values that the chart's schema does not know are an error.
func Render(v Values) (Objects, error) {
	c, err := load()
	if err != nil {
		return nil, err
	}
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("read the chart: %w", err)
	}
	all, err := util.ToRenderValues(c, v, common.ReleaseOptions{Name: "tunmesh", Namespace: Namespace, Revision: 1, IsInstall: true}, nil)
	if err != nil {
		return nil, fmt.Errorf("render the chart: %w", err)
	}
	files, err := engine.Render(c, all)
	if err != nil {
		return nil, fmt.Errorf("render the chart: %w", plain(err))
	}
	var out Objects
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if path.Ext(name) != ".yaml" {
			continue
		}
		objects, err := Parse([]byte(files[name]))
		if err != nil {
			return nil, fmt.Errorf("render the chart: %s: %w", name, err)
		}
		out = append(out, objects...)
	}
	return out.Sorted(), nil
}

// Defaults are the chart's values with v put over them.
func Defaults(v Values) (Values, error) {
	c, err := load()
	if err != nil {
		return nil, err
	}
	return Values(c.Values).Merge(v), nil
}

// plain takes from an error of a template the text that the template wrote.
func plain(err error) error {
	const mark = "error calling required: "
	if _, text, ok := strings.Cut(err.Error(), mark); ok {
		return errors.New(text)
	}
	return err
}

func load() (*chart.Chart, error) {
	var files []*archive.BufferedFile
	err := fs.WalkDir(deploy.Chart(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(deploy.Chart(), name)
		files = append(files, &archive.BufferedFile{Name: name, Data: data})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the chart: %w", err)
	}
	c, err := loader.LoadFiles(files)
	if err != nil {
		return nil, fmt.Errorf("read the chart: %w", err)
	}
	return c, nil
}

// Parse reads objects from YAML documents; empty ones are none.
func Parse(text []byte) (Objects, error) {
	var out Objects
	for doc := range bytes.SplitSeq(append([]byte("\n"), text...), []byte("\n---")) {
		var o map[string]any
		if err := yaml.Unmarshal(doc, &o); err != nil {
			return nil, err
		}
		if len(o) > 0 {
			out = append(out, &unstructured.Unstructured{Object: o})
		}
	}
	return out, nil
}
