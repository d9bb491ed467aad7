// Package layers is the architecture as data: which floor each folder stands on
// and which doors lead to the libraries that must stay behind one package. It
// judges an import graph; its test feeds it the real one.
package layers

import (
	"fmt"
	"slices"
	"strings"
)

// Module is this module's path.
const Module = "github.com/tunmesh/tunmesh"

// Graph maps a package's import path to what it imports.
type Graph map[string][]string

// floors lists, for each area, its folders from the lowest to the highest. A
// package may import packages of lower floors of its area, and those of the
// same floor only where allowed names it.
var floors = map[string][][]string{ //nolint:gochecknoglobals // a table
	"netstack": {{"netstack/packet", "netstack/chunk"}, {"netstack/tun"}, {"netstack/link", "netstack/memlink"}, {"netstack"}},
	"tunproxy": {
		{"tunproxy/message", "tunproxy/hpack", "tunproxy/memory"},
		{"tunproxy/flow"},
		{"tunproxy/detect", "tunproxy/route", "tunproxy/balance", "tunproxy/authz", "tunproxy/resilience"},
		{"tunproxy/h1", "tunproxy/h2", "tunproxy/orig", "tunproxy/mux"},
		{"tunproxy/telemetry", "tunproxy/mtls", "tunproxy/rpc", "tunproxy/accesslog"},
		{"tunproxy/tap", "tunproxy/datagram", "tunproxy/discover", "tunproxy/tracing", "tunproxy/forward", "tunproxy/upstream"},
		{"tunproxy/exchange"},
		{"tunproxy"},
	},
	"cni": {{"cni/podnet", "cni/keeper", "cni/unary"}, {"cni/cri"}, {"cni/broker", "cni/install"}, {"cni/plugin"}, {"cni/agent"}},
	"control": {
		{"control/token", "control/encode"},
		{"control/catalog"},
		{"control/object", "control/access"},
		{"control/sourcetest"},
		{"control/kube", "control/files"},
		{"control/destination", "control/policy", "control/identity", "control/inject", "control/tap", "control/metrics", "control/repair"},
		{"control/query", "control/console", "control/admission", "control/serving", "control/replicas", "control/store"},
		{"control/extension"},
		{"control"},
		{"control/controltest"},
	},
	"deploy": {{"deploy", "deploy/image", "deploy/commit"}, {"deploy/images", "deploy/manifest", "deploy/release"}},
}

// areas lists which areas of this module an area may import.
var areas = map[string][]string{ //nolint:gochecknoglobals // a table
	"api":      {},
	"internal": {"api", "internal"},
	"netstack": {"api", "internal"},
	"tunproxy": {"api", "internal", "netstack"},
	"cni":      {"api", "internal"},
	"control":  {"api", "internal"},
	"bench":    {"api", "internal", "netstack", "tunproxy", "cni", "control"},
	"deploy":   {},
	"cmd":      {"api", "internal", "netstack", "tunproxy", "cni", "control", "deploy", "cmd"},
	"test":     {"api", "internal", "netstack", "tunproxy", "cni", "control", "deploy", "test"},
}

// doors lists which folders may import a library directly.
var doors = map[string][]string{ //nolint:gochecknoglobals // a table
	"gvisor.dev/gvisor":                      {"netstack"},
	"github.com/vishvananda/netlink":         {"cni/podnet", "internal/nettest"},
	"k8s.io/client-go":                       {"control/kube", "cmd/meshctl"},
	"github.com/prometheus/client_golang":    {"control", "internal/admin", "cmd/mesh-control"},
	"github.com/prometheus/prometheus":       {"control/store"},
	"github.com/google/go-containerregistry": {"deploy/image"},
	"helm.sh/helm":                           {"deploy/manifest"},
}

// Check returns what breaks the rules, sorted; none is nil.
func Check(g Graph) []string {
	var bad []string
	for pkg, imports := range g {
		from, ours := strings.CutPrefix(pkg, Module+"/")
		if !ours {
			continue
		}
		for _, imp := range imports {
			if to, ours := strings.CutPrefix(imp, Module+"/"); ours {
				if why := floor(from, to); why != "" {
					bad = append(bad, fmt.Sprintf("%s imports %s: %s", from, to, why))
				}
			} else if why := door(from, imp); why != "" {
				bad = append(bad, fmt.Sprintf("%s imports %s: %s", from, imp, why))
			}
		}
	}
	slices.Sort(bad)
	return bad
}

func area(folder string) string {
	a, _, _ := strings.Cut(folder, "/")
	return a
}

func floor(from, to string) string {
	fa, ta := area(from), area(to)
	if fa != ta || fa == "internal" || fa == "cmd" || fa == "test" || fa == "api" || fa == "bench" {
		if fa == "api" && ta == "api" || fa == "bench" && ta == "bench" {
			return ""
		}
		if !slices.Contains(areas[fa], ta) {
			return fmt.Sprintf("%s may import %v of ours", fa, areas[fa])
		}
		return ""
	}
	ff, tf := level(fa, from), level(ta, to)
	switch {
	case ff < 0:
		return from + " has no floor in test/layers"
	case tf < 0:
		return to + " has no floor in test/layers"
	case tf > ff:
		return "a lower floor imports an upper one"
	case tf == ff && root(fa, from) != root(ta, to):
		return "packages of one floor do not import each other"
	}
	return ""
}

// root is the listed folder that a package belongs to.
func root(area, folder string) string {
	best := ""
	for _, fl := range floors[area] {
		for _, f := range fl {
			if (folder == f || strings.HasPrefix(folder, f+"/")) && len(f) > len(best) {
				best = f
			}
		}
	}
	// The area's own root owns only itself, not folders that nobody listed.
	if best == area && folder != area {
		return ""
	}
	return best
}

func level(area, folder string) int {
	r := root(area, folder)
	return slices.IndexFunc(floors[area], func(fl []string) bool { return slices.Contains(fl, r) })
}

func door(from, imp string) string {
	for lib, allowed := range doors {
		if imp != lib && !strings.HasPrefix(imp, lib+"/") {
			continue
		}
		for _, a := range allowed {
			if from == a || strings.HasPrefix(from, a+"/") {
				return ""
			}
		}
		return fmt.Sprintf("only %v may", allowed)
	}
	return ""
}
