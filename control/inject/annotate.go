package inject

import (
	"maps"

	"github.com/tunmesh/tunmesh/internal/annotation"
)

// Annotate has every workload of a stream ask for a sidecar, which the injector of
// the cluster then adds to its pods, and every namespace ask for one for its pods.
// What could not have one is left alone, and the report says why.
func Annotate(in []byte, cfg Config) (out []byte, reports []Report, err error) {
	docs, err := split(in)
	if err != nil {
		return nil, nil, err
	}
	cfg.OptIn = false
	return rewrite(docs, func(o map[string]any) (*Report, bool, error) {
		if o["kind"] == "Namespace" {
			return annotateNamespace(o)
		}
		w, err := parse(o)
		if w == nil {
			return nil, false, err
		}
		said := w.said
		if !cfg.IgnoreLinkerd {
			said, _ = fromLinkerd(said)
		}
		if r := skip(said, &w.spec, cfg); r != "" {
			return w.skipped(r, nil), false, nil
		}
		if err := validate(inherit(said, cfg.NamespaceAnnotations, cfg.Defaults)); err != nil {
			return w.skipped(InvalidAnnotation, err), false, nil
		}
		w.Done = true
		w.Warnings = Notes(w.said, cfg)
		own := annotationsOf(w.meta)
		if own[annotation.Inject] == enabled {
			return &w.Report, false, nil
		}
		own[annotation.Inject] = enabled
		w.annotate(own)
		return &w.Report, true, nil
	})
}

func annotateNamespace(o map[string]any) (*Report, bool, error) {
	meta, _ := o["metadata"].(map[string]any)
	name, _ := meta["name"].(string)
	r := &Report{Kind: "namespace", Name: name}
	all := annotationsOf(meta)
	switch all[annotation.Inject] {
	case disabled:
		r.Reason = DisablePresent
		return r, false, nil
	case enabled:
		r.Done = true
		return r, false, nil
	}
	if meta == nil {
		meta = map[string]any{}
		o["metadata"] = meta
	}
	all[annotation.Inject] = enabled
	setAnnotations(meta, all)
	r.Done = true
	return r, true, nil
}

// unannotate takes away what Annotate added to a workload.
func unannotate(o map[string]any) (*Report, bool, error) {
	w, err := parse(o)
	if w == nil {
		return nil, false, err
	}
	own := maps.Clone(annotationsOf(w.meta))
	if own[annotation.Inject] != enabled {
		return w.skipped(NotInjected, nil), false, nil
	}
	delete(own, annotation.Inject)
	w.annotate(own)
	w.Done = true
	return &w.Report, true, nil
}

// unannotateNamespace takes the same away from a namespace, whose pods would be
// injected again. One that asks for nothing is none of anybody's business.
func unannotateNamespace(o map[string]any) (*Report, bool, error) {
	meta, _ := o["metadata"].(map[string]any)
	all := annotationsOf(meta)
	if all[annotation.Inject] != enabled {
		return nil, false, nil
	}
	name, _ := meta["name"].(string)
	delete(all, annotation.Inject)
	setAnnotations(meta, all)
	return &Report{Kind: "namespace", Name: name, Done: true}, true, nil
}
