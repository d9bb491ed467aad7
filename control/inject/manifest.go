package inject

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/tunmesh/tunmesh/internal/annotation"
)

// Report says what became of one resource.
type Report struct {
	Kind string `json:"kind"` // lower case, as kubectl prints it
	Name string `json:"name"`
	// Done: it was injected, or uninjected.
	Done bool `json:"done"`
	// Reason is why it was not; "" for kinds that are passed through silently.
	Reason Reason `json:"reason,omitempty"`
	// Detail explains the reason.
	Detail string `json:"detail,omitempty"`
	// Warnings about a resource that was injected.
	Warnings []string `json:"warnings,omitempty"`
}

// templates names where each kind that has pods keeps their template.
func template(kind string) (path []string, ok bool) {
	switch kind {
	case "Pod":
		return nil, true
	case "Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job", "ReplicationController":
		return []string{"spec", "template"}, true
	case "CronJob":
		return []string{"spec", "jobTemplate", "spec", "template"}, true
	}
	return nil, false
}

// Manifests injects into every workload of a stream of YAML documents. What is
// no workload comes out byte for byte as it went in. Namespaces of the stream
// hand their annotations to their workloads, also to those before them.
func Manifests(in []byte, cfg Config) (out []byte, reports []Report, err error) {
	docs, err := split(in)
	if err != nil {
		return nil, nil, err
	}
	namespaces := map[string]map[string]string{}
	for _, d := range docs {
		d.each(func(o map[string]any) {
			if o["kind"] == "Namespace" {
				if m, ok := o["metadata"].(map[string]any); ok {
					name, _ := m["name"].(string)
					namespaces[name] = annotationsOf(m)
				}
			}
		})
	}
	of := func(ns string) Config {
		c := cfg
		c.NamespaceAnnotations = inherit2(cfg.NamespaceAnnotations, namespaces[ns])
		return c
	}
	return rewrite(docs, func(o map[string]any) (*Report, bool, error) {
		return one(o, func(ns string, ann map[string]string, spec *corev1.PodSpec) (map[string]string, Reason, error) {
			return Pod(ann, spec, of(ns))
		}, func(ns string, ann map[string]string) []string { return Notes(ann, of(ns)) })
	})
}

// Unmanifests takes the sidecar out of every workload of a stream, or the
// annotation that asks for one where there is none yet; and that of namespaces.
func Unmanifests(in []byte) (out []byte, reports []Report, err error) {
	docs, err := split(in)
	if err != nil {
		return nil, nil, err
	}
	return rewrite(docs, func(o map[string]any) (*Report, bool, error) {
		if o["kind"] == "Namespace" {
			return unannotateNamespace(o)
		}
		r, did, err := one(o, func(_ string, ann map[string]string, spec *corev1.PodSpec) (map[string]string, Reason, error) {
			ann, found := Unpod(ann, spec)
			if !found {
				return ann, NotInjected, nil
			}
			return ann, "", nil
		}, nil)
		if err != nil || r == nil || did {
			return r, did, err
		}
		return unannotate(o)
	})
}

// NotInjected is why Unmanifests left a workload as it was.
const NotInjected Reason = "not_injected"

func inherit2(base, over map[string]string) map[string]string {
	out := maps.Clone(base)
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, over)
	return out
}

// document is one YAML document: its text, and its value.
type document struct {
	raw []byte
	obj map[string]any // nil for an empty document
}

// each calls f for the object, or for each item of a List.
func (d *document) each(f func(map[string]any)) {
	if d.obj == nil {
		return
	}
	if !d.isList() {
		f(d.obj)
		return
	}
	items, _ := d.obj["items"].([]any)
	for _, it := range items {
		if o, ok := it.(map[string]any); ok {
			f(o)
		}
	}
}

func (d *document) isList() bool {
	_, ok := d.obj["items"].([]any)
	kind, _ := d.obj["kind"].(string)
	return ok && strings.HasSuffix(kind, "List")
}

// split cuts a stream at its "---" lines; everything else stays byte for byte.
func split(in []byte) ([]*document, error) {
	var docs []*document
	for _, raw := range pieces(in) {
		if len(bytes.TrimSpace(raw)) == 0 {
			continue
		}
		d := &document{raw: raw}
		if err := yaml.Unmarshal(raw, &d.obj); err != nil {
			return nil, fmt.Errorf("document %d: %w", len(docs)+1, err)
		}
		if d.obj != nil && (d.obj["kind"] == nil || d.obj["apiVersion"] == nil) {
			return nil, fmt.Errorf("document %d: apiVersion and kind are missing: not a Kubernetes manifest", len(docs)+1)
		}
		docs = append(docs, d)
	}
	return docs, nil
}

func pieces(in []byte) [][]byte {
	var out [][]byte
	start, at := 0, 0
	for line := range bytes.Lines(in) {
		if isSeparator(line) {
			out = append(out, in[start:at])
			start = at + len(line)
		}
		at += len(line)
	}
	return append(out, in[start:])
}

// isSeparator: three dashes, and at most a comment after them. A document that
// begins on the line of its dashes is not cut there, and is refused by YAML.
func isSeparator(line []byte) bool {
	rest, ok := bytes.CutPrefix(line, []byte("---"))
	rest = bytes.TrimSpace(rest)
	return ok && (len(rest) == 0 || rest[0] == '#')
}

type change func(namespace string, ann map[string]string, spec *corev1.PodSpec) (map[string]string, Reason, error)

// rewrite runs edit, which says whether it changed an object, over all of them.
func rewrite(docs []*document, edit func(map[string]any) (*Report, bool, error)) ([]byte, []Report, error) {
	var (
		out     bytes.Buffer
		reports []Report
	)
	for i, d := range docs {
		changed := false
		var failed error
		d.each(func(o map[string]any) {
			r, did, err := edit(o)
			if err != nil && failed == nil {
				failed = fmt.Errorf("document %d: %w", i+1, err)
			}
			// A list is what kubectl get printed, and is applied as a whole.
			if did || d.isList() {
				did = unversion(o) || did
			}
			changed = changed || did
			if r != nil {
				reports = append(reports, *r)
			}
		})
		if failed != nil {
			return nil, nil, failed
		}
		text := d.raw
		if changed {
			var err error
			if text, err = yaml.Marshal(d.obj); err != nil {
				return nil, nil, fmt.Errorf("document %d: %w", i+1, err)
			}
		}
		if out.Len() > 0 {
			if !bytes.HasSuffix(out.Bytes(), []byte("\n")) {
				out.WriteByte('\n')
			}
			out.WriteString("---\n")
		}
		out.Write(text)
	}
	return out.Bytes(), reports, nil
}

// unversion takes away which version of the object kubectl get printed: the object
// may have another by the time that it is applied, as its status changes, and what is
// applied here is no less right for it.
func unversion(o map[string]any) bool {
	m, ok := o["metadata"].(map[string]any)
	if _, set := m["resourceVersion"]; !ok || !set {
		return false
	}
	delete(m, "resourceVersion")
	return true
}

// workload is an object that has pods, taken apart.
type workload struct {
	Report
	namespace string
	template  map[string]any // of pods; the object itself where that is one
	meta      map[string]any // the template's; empty where it has none
	specMap   map[string]any
	spec      corev1.PodSpec
	// said are the template's annotations; inject, where it says nothing about that, is
	// the workload's own.
	said map[string]string
}

// parse takes an object apart; nil for kinds without pods.
func parse(o map[string]any) (*workload, error) {
	kind, _ := o["kind"].(string)
	path, ok := template(kind)
	if !ok {
		return nil, nil
	}
	meta, _ := o["metadata"].(map[string]any)
	name, _ := meta["name"].(string)
	if name == "" {
		name, _ = meta["generateName"].(string)
	}
	w := &workload{Report: Report{Kind: strings.ToLower(kind), Name: name}, template: o}
	if w.namespace, _ = meta["namespace"].(string); w.namespace == "" {
		w.namespace = "default"
	}
	for _, p := range path {
		next, ok := w.template[p].(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%s %q has no %s", w.Kind, name, strings.Join(path, "."))
		}
		w.template = next
	}
	if w.specMap, ok = w.template["spec"].(map[string]any); !ok {
		return nil, fmt.Errorf("%s %q has no pod spec", w.Kind, name)
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(w.specMap, &w.spec); err != nil {
		return nil, fmt.Errorf("%s %q: %w", w.Kind, name, err)
	}
	if w.meta, _ = w.template["metadata"].(map[string]any); w.meta == nil {
		w.meta = map[string]any{}
	}
	w.said = annotationsOf(w.meta)
	if v, set := annotationsOf(meta)[annotation.Inject]; set && len(path) > 0 && w.said[annotation.Inject] == "" {
		w.said = inherit2(w.said, map[string]string{annotation.Inject: v})
	}
	return w, nil
}

// annotate writes the template's annotations back.
func (w *workload) annotate(all map[string]string) {
	setAnnotations(w.meta, all)
	if len(w.meta) > 0 {
		w.template["metadata"] = w.meta
	}
}

// skipped is the report of a workload that stays as it is.
func (w *workload) skipped(reason Reason, why error) *Report {
	w.Reason = reason
	if why != nil {
		w.Detail = why.Error()
	}
	return &w.Report
}

// one rewrites an object in place. The report is nil for kinds without pods.
func one(o map[string]any, f change, notes func(string, map[string]string) []string) (*Report, bool, error) {
	w, err := parse(o)
	if w == nil {
		return nil, false, err
	}
	after, reason, err := f(w.namespace, w.said, &w.spec)
	if reason != "" {
		return w.skipped(reason, err), false, nil
	}
	w.Done = true
	if notes != nil {
		w.Warnings = append(w.Warnings, notes(w.namespace, w.said)...)
	}
	if v, set := annotationsOf(w.meta)[annotation.Inject]; !set || v == "" {
		delete(after, annotation.Inject)
	}
	w.annotate(after)
	return &w.Report, true, merge(w.specMap, &w.spec)
}

// merge writes back the three lists that injection touches, and leaves every
// other field of the user's spec exactly as it was, known to us or not.
func merge(dst map[string]any, spec *corev1.PodSpec) error {
	type named struct {
		key  string
		list any
	}
	for _, n := range []named{{"initContainers", spec.InitContainers}, {"containers", spec.Containers}, {"volumes", spec.Volumes}} {
		old := map[string]any{}
		if l, ok := dst[n.key].([]any); ok {
			for _, it := range l {
				if m, ok := it.(map[string]any); ok {
					name, _ := m["name"].(string)
					old[name] = m
				}
			}
		}
		holder, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&map[string]any{"l": n.list})
		if err != nil {
			return fmt.Errorf("write back %s: %w", n.key, err)
		}
		fresh, _ := holder["l"].([]any)
		if len(fresh) == 0 {
			delete(dst, n.key)
			continue
		}
		out := make([]any, 0, len(fresh))
		for _, it := range fresh {
			m, _ := it.(map[string]any)
			name, _ := m["name"].(string)
			if was, ok := old[name]; ok {
				out = append(out, was)
				continue
			}
			out = append(out, m)
		}
		dst[n.key] = out
	}
	return nil
}

func annotationsOf(meta map[string]any) map[string]string {
	out := map[string]string{}
	m, _ := meta["annotations"].(map[string]any)
	for k, v := range m {
		if s, ok := v.(string); ok {
			out[k] = s
		}
	}
	return out
}

func setAnnotations(meta map[string]any, a map[string]string) {
	if len(a) == 0 {
		delete(meta, "annotations")
		return
	}
	m := make(map[string]any, len(a))
	for _, k := range slices.Sorted(maps.Keys(a)) {
		m[k] = a[k]
	}
	meta["annotations"] = m
}
