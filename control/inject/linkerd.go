package inject

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tunmesh/tunmesh/internal/annotation"
)

// fromLinkerd returns annotations in which Linkerd's names stand for ours where
// ours are absent, and says in words what of Linkerd's means nothing here. What
// comes in is not written to.
func fromLinkerd(all map[string]string) (out map[string]string, notes []string) {
	out = all
	cloned := false
	set := func(name, value string) {
		if _, ours := all[name]; ours {
			return
		}
		if !cloned {
			out, cloned = maps.Clone(all), true
		}
		out[name] = value
	}
	note := func(name, why string) {
		notes = append(notes, fmt.Sprintf("annotation %s, ignored: %s", name, why))
	}
	for _, k := range slices.Sorted(maps.Keys(all)) {
		if !annotation.IsLinkerd(k) {
			continue
		}
		v := all[k]
		switch k {
		case annotation.LinkerdInject:
			if v == ingress {
				note(k, "there is no ingress mode: the sidecar is injected as any other")
				v = enabled
			}
			set(annotation.Inject, v)
			continue
		case annotation.LinkerdDisableTap:
			set(annotation.DisableTap, v)
			continue
		case annotation.LinkerdAccessLog:
			continue // read by its own name
		}
		rest, isConfig := strings.CutPrefix(k, annotation.LinkerdConfigPrefix)
		switch {
		case isConfig && means(rest):
			if rest == logLevel {
				v = levelOf(v)
			}
			set(annotation.ConfigPrefix+rest, v)
		case isConfig && slices.Contains(theirs(), rest):
			note(k, "it is about Linkerd's own proxy, image, version, user or ports")
		case isConfig && rest == admissionWebhooks:
			// Of a namespace, for its selector: nothing to be said.
		default:
			note(k, "it has no meaning here")
		}
	}
	return out, notes
}

const (
	ingress           = "ingress"
	logLevel          = "proxy-log-level"
	admissionWebhooks = "admission-webhooks"
)

// means reports the names that mean the same here.
func means(name string) bool {
	return slices.Contains([]string{
		"default-inbound-policy", "opaque-ports", logLevel, "shutdown-grace-period", "image-pull-policy", "trace-collector",
		"proxy-cpu-request", "proxy-cpu-limit", "proxy-memory-request", "proxy-memory-limit",
	}, name)
}

// theirs are the names that would make our sidecar theirs.
func theirs() []string {
	return []string{
		"proxy-image", "proxy-version", "debug-image", "debug-image-version", "debug-image-pull-policy", "proxy-uid", "proxy-gid",
		"control-port", "inbound-port", "outbound-port", "admin-port",
	}
}

// levelOf reads a level of Linkerd's, such as "warn,linkerd=info": what it says of
// everything, in our words.
func levelOf(v string) string {
	for item := range strings.SplitSeq(v, ",") {
		item = strings.TrimSpace(item)
		switch item {
		case "trace":
			return "debug"
		case "off":
			return "error"
		}
		if !strings.Contains(item, "=") {
			return item
		}
	}
	return "info"
}

// Notes says in words what annotations of Linkerd's on a pod and its namespace
// mean nothing here. Who injects tells it.
func Notes(annotations map[string]string, cfg Config) []string {
	if cfg.IgnoreLinkerd {
		return nil
	}
	_, notes := fromLinkerd(annotations)
	_, of := fromLinkerd(cfg.NamespaceAnnotations)
	for _, n := range of {
		n = "the namespace's " + n
		if !slices.Contains(notes, n) {
			notes = append(notes, n)
		}
	}
	return notes
}
