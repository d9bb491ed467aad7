// Package store keeps what was applied to a local mesh, as an API server would:
// one object by kind, namespace and name, Services with their cluster IPs, each
// in a file that the control plane watches. It owns merging and allocation; it
// refuses to know what is done about the objects.
package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/state"
	"github.com/tunmesh/tunmesh/control/files"
)

// Config of a Store.
type Config struct {
	// Dir gets one file per object.
	Dir string
	// ServiceRanges are where cluster IPs come from, one per family, IPv4 first.
	ServiceRanges []netip.Prefix
	// Check is asked before anything is changed, with all objects as they would be.
	Check func(*files.Set) error
}

// Result says what became of one applied object.
type Result struct {
	Object string `json:"object"` // "deployment.apps/web", as kubectl prints it
	Action string `json:"action"` // created, configured, unchanged, deleted
}

// Store holds the objects.
type Store struct {
	cfg Config
	mu  sync.Mutex
	set *files.Set
}

// New makes an empty store.
func New(cfg Config) *Store { return &Store{cfg: cfg, set: &files.Set{}} }

// Set is what is held now; it must not be changed.
func (s *Store) Set() *files.Set {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.set
}

// Apply adds objects and replaces those of the same name, all or, with an
// error, none of them.
func (s *Store) Apply(add *files.Set) ([]Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Twice the same object in one apply is the mistake that Check reports: it
	// must not be merged away.
	next := without(s.set, objects(add))
	next.Merge(add)
	next.Skipped = nil
	if err := s.allocate(next); err != nil {
		return nil, err
	}
	if err := errors.Join(files.Check(next), s.cfg.Check(next)); err != nil {
		return nil, err
	}
	var results []Result
	for _, o := range objects(add) {
		r, err := s.write(o)
		if err != nil {
			return nil, err
		}
		results = append(results, r)
	}
	s.set = next
	return results, nil
}

// Delete removes an object by kind ("deployment"), namespace and name.
func (s *Store) Delete(kind, namespace, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range objects(s.set) {
		if strings.EqualFold(o.gvk.Kind, kind) && o.GetName() == name && (o.GetNamespace() == namespace || o.GetNamespace() == "") {
			next := without(s.set, []object{o})
			if err := files.Check(next); err != nil {
				return fmt.Errorf("delete %s %s: others need it: %w", kind, name, err)
			}
			if err := os.Remove(s.file(o)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("delete %s %s: %w", kind, name, err)
			}
			s.set = next
			return nil
		}
	}
	return fmt.Errorf("delete %s %s: there is no such object in namespace %s", kind, name, namespace)
}

// object is one with its kind.
type object struct {
	metav1.Object
	gvk schema.GroupVersionKind
}

func (o object) key() string { return o.gvk.Kind + "/" + o.GetNamespace() + "/" + o.GetName() }

func (o object) String() string {
	kind := strings.ToLower(o.gvk.Kind)
	if o.gvk.Group != "" {
		kind += "." + o.gvk.Group
	}
	return kind + "/" + o.GetName()
}

func (s *Store) file(o object) string {
	ns := o.GetNamespace()
	if ns == "" {
		ns = "_"
	}
	return filepath.Join(s.cfg.Dir, fmt.Sprintf("%s_%s_%s.yaml", ns, strings.ToLower(o.gvk.Kind), o.GetName()))
}

func (s *Store) write(o object) (Result, error) {
	r := Result{Object: o.String(), Action: "created"}
	raw, err := yaml.Marshal(o.Object)
	if err != nil {
		return r, fmt.Errorf("write %s: %w", o, err)
	}
	if old, err := os.ReadFile(s.file(o)); err == nil {
		r.Action = "configured"
		if bytes.Equal(old, raw) {
			r.Action = "unchanged"
			return r, nil
		}
	}
	return r, state.WriteFile(s.file(o), raw, 0o600)
}

// objects lists a set's objects with their kinds set.
func objects(s *files.Set) []object {
	var out []object
	for _, o := range s.Namespaces {
		out = append(out, kinded(o, "", "Namespace", &o.TypeMeta))
	}
	for _, o := range s.ServiceAccounts {
		out = append(out, kinded(o, "", "ServiceAccount", &o.TypeMeta))
	}
	for _, o := range s.ConfigMaps {
		out = append(out, kinded(o, "", "ConfigMap", &o.TypeMeta))
	}
	for _, o := range s.Secrets {
		out = append(out, kinded(o, "", "Secret", &o.TypeMeta))
	}
	for _, o := range s.Services {
		out = append(out, kinded(o, "", "Service", &o.TypeMeta))
	}
	for _, o := range s.Deployments {
		out = append(out, kinded(o, "apps", "Deployment", &o.TypeMeta))
	}
	for _, o := range s.StatefulSets {
		out = append(out, kinded(o, "apps", "StatefulSet", &o.TypeMeta))
	}
	for _, o := range s.DaemonSets {
		out = append(out, kinded(o, "apps", "DaemonSet", &o.TypeMeta))
	}
	for _, o := range s.Pods {
		out = append(out, kinded(o, "", "Pod", &o.TypeMeta))
	}
	return out
}

func kinded(o metav1.Object, group, kind string, t *metav1.TypeMeta) object {
	gvk := schema.GroupVersionKind{Group: group, Version: "v1", Kind: kind}
	t.SetGroupVersionKind(gvk)
	return object{Object: o, gvk: gvk}
}

// without is a set less the objects that gone names.
func without(s *files.Set, gone []object) *files.Set {
	drop := map[string]bool{}
	for _, o := range gone {
		drop[o.key()] = true
	}
	next := *s
	next.Namespaces = keep(s.Namespaces, "Namespace", drop)
	next.ServiceAccounts = keep(s.ServiceAccounts, "ServiceAccount", drop)
	next.ConfigMaps = keep(s.ConfigMaps, "ConfigMap", drop)
	next.Secrets = keep(s.Secrets, "Secret", drop)
	next.Services = keep(s.Services, "Service", drop)
	next.Deployments = keep(s.Deployments, "Deployment", drop)
	next.StatefulSets = keep(s.StatefulSets, "StatefulSet", drop)
	next.DaemonSets = keep(s.DaemonSets, "DaemonSet", drop)
	next.Pods = keep(s.Pods, "Pod", drop)
	return &next
}

func keep[T metav1.Object](list []T, kind string, drop map[string]bool) []T {
	return slices.DeleteFunc(slices.Clone(list), func(o T) bool {
		return drop[kind+"/"+o.GetNamespace()+"/"+o.GetName()]
	})
}
