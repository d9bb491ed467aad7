package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
	corev1 "k8s.io/api/core/v1"

	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/object"
)

const (
	// scanDelay joins the events of one change of several files.
	scanDelay = 30 * time.Millisecond
	// scanPeriod finds what no event told of: a folder that was replaced, a file
	// system without events.
	scanPeriod = 3 * time.Second
)

// SourceConfig says what a Source reads and where it tells of it; all fields but
// Logger are required.
type SourceConfig struct {
	// Dirs are folders of manifests (*.yaml, *.yml, *.json directly in them), which
	// exist. Together they are one cluster.
	Dirs    []string
	Catalog *catalog.Catalog
	Logger  *slog.Logger // nil = discard
}

// Source keeps a catalog true to folders of manifests.
//
// A Pod that has a UID was started by somebody and is a pod of the cluster, with
// the status that its file says. One without is what a person wrote: checked as
// all manifests are, but no pod yet. The two may lie side by side; of one name,
// the one that runs counts.
//
// A change that cannot be used, by itself (Parse) or with the rest (Check), is
// reported, and the last good state stays: of a file that does not parse, its
// last content that did; of manifests that do not hang together, all of them as
// they were. Running pods are told of in any case. At the start there is no last
// good state, so nothing is told, and the catalog is not synced, until all files
// are good: half a cluster would be taken for the whole.
type Source struct {
	cfg SourceConfig

	// Of Run's goroutine alone:
	files     map[string]*file
	manifests map[catalog.Ref]catalog.Object // last good; nil: none yet
	applied   map[catalog.Ref]catalog.Object
	unchecked error    // why the manifests as they are now are not in force
	notes     []string // that were logged already

	mu      sync.Mutex
	problem error
}

// file is one file, as last read.
type file struct {
	stamp  stamp
	err    error // of the last reading
	set    *Set  // the last that parsed, without running pods; nil: never
	pods   []*catalog.Pod
	oddity error // annotations that were ignored
}

// stamp tells one content of a file from another without reading it.
type stamp struct {
	inode uint64
	size  int64
	mtime int64
}

// NewSource returns a source; Run makes it work.
func NewSource(cfg SourceConfig) (*Source, error) {
	if len(cfg.Dirs) == 0 || cfg.Catalog == nil {
		return nil, errors.New("new source of files: folders and catalog are needed")
	}
	for _, d := range cfg.Dirs {
		info, err := os.Stat(d)
		if err == nil && !info.IsDir() {
			err = fmt.Errorf("%s is not a folder", d)
		}
		if err != nil {
			return nil, fmt.Errorf("new source of files: %w: create it first", err)
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Source{cfg: cfg, files: map[string]*file{}}, nil
}

// Problem is what of the folders cannot be used now, nil when all is in force.
func (s *Source) Problem() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.problem
}

// Run follows the folders until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch folders of manifests: %w", err)
	}
	defer w.Close()
	s.watch(w)
	s.scan()
	timer := time.NewTimer(scanPeriod)
	defer timer.Stop()
	soon := false // a scan is due within scanDelay
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-w.Events:
			if !soon && IsManifest(filepath.Base(e.Name)) && e.Op != fsnotify.Chmod {
				soon = true
				timer.Reset(scanDelay)
			}
		case err := <-w.Errors:
			s.cfg.Logger.Warn("watch of manifests lost events, reading all again", "err", err)
			soon = true
			timer.Reset(scanDelay)
		case <-timer.C:
			soon = false
			s.watch(w)
			s.scan()
			timer.Reset(scanPeriod)
		}
	}
}

// watch asks for events of each folder, again if it was replaced. Where there
// are none to be had, scanPeriod has to do.
func (s *Source) watch(w *fsnotify.Watcher) {
	for _, d := range s.cfg.Dirs {
		if err := w.Add(d); err != nil {
			s.cfg.Logger.Debug("no events of a folder of manifests", "dir", d, "err", err)
		}
	}
}

// scan reads what is different and tells the catalog.
func (s *Source) scan() {
	changed, err := s.read()
	errs := []error{err}
	for _, name := range s.names() {
		errs = append(errs, s.files[name].err)
	}
	unread := errors.Join(errs...)
	first := s.manifests == nil
	if first && unread != nil {
		s.report(unread)
		return
	}
	if first || changed {
		objects, err := s.compose()
		if s.unchecked = err; err == nil {
			s.manifests = objects
		}
	}
	s.report(errors.Join(unread, s.unchecked))
	if s.manifests != nil {
		s.apply()
	}
}

// read brings s.files up to date, and tells whether manifests are different. Its
// error is of folders that cannot be listed; what was read of them stays.
func (s *Source) read() (changed bool, err error) {
	present := map[string]bool{}
	var errs []error
	for _, dir := range s.cfg.Dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			errs = append(errs, fmt.Errorf("list manifests: %w", err))
			for name := range s.files {
				present[name] = present[name] || filepath.Dir(name) == filepath.Clean(dir)
			}
			continue
		}
		for _, e := range entries {
			if e.IsDir() || !IsManifest(e.Name()) {
				continue
			}
			name := filepath.Join(dir, e.Name())
			present[name] = true
			changed = s.readFile(name) || changed
		}
	}
	for name, f := range s.files {
		if !present[name] {
			changed = changed || f.manifests()
			delete(s.files, name)
		}
	}
	return changed, errors.Join(errs...)
}

// readFile reads one file if it is not the one that was read last, and tells
// whether manifests are different.
func (s *Source) readFile(name string) (changed bool) {
	old := s.files[name]
	if old == nil {
		old = &file{}
	}
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false // gone since it was listed; the next scan knows
	}
	if err != nil {
		s.files[name] = &file{err: err, set: old.set, pods: old.pods}
		return false
	}
	now := stampOf(info)
	if now == old.stamp && now != (stamp{}) {
		return false
	}
	f := &file{stamp: now}
	data, err := read(nil, name)
	if err == nil {
		f.set, err = Parse(name, data)
	}
	s.files[name] = f
	if err != nil {
		f.err, f.set, f.pods = err, old.set, old.pods
		return false
	}
	f.pods, f.oddity = takeRunning(f.set)
	if f.oddity != nil {
		s.cfg.Logger.Warn("annotation not understood", "file", name, "err", f.oddity)
	}
	return f.manifests() || old.manifests()
}

// manifests tells whether a file holds anything but running pods.
func (f *file) manifests() bool {
	return f.set != nil && len(f.set.origins) > 0
}

// settled is the age at which a file's time tells its content from another's: a
// kernel's file times are some milliseconds coarse, and the inode of a file that
// was replaced may be the next one's.
const settled = 50 * time.Millisecond

// stampOf is zero for a file so young that it must be read once more.
func stampOf(info fs.FileInfo) stamp {
	if age := time.Since(info.ModTime()); age >= 0 && age < settled {
		return stamp{}
	}
	st := stamp{size: info.Size(), mtime: info.ModTime().UnixNano()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		st.inode = sys.Ino
	}
	return st
}

// takeRunning removes running pods from a set and returns them for the catalog.
func takeRunning(set *Set) ([]*catalog.Pod, error) {
	var pods []*catalog.Pod
	var errs []error
	set.Pods = slices.DeleteFunc(set.Pods, func(p *corev1.Pod) bool {
		if p.UID == "" {
			return false
		}
		pod, err := object.Pod(p)
		errs = append(errs, err)
		pods = append(pods, pod)
		delete(set.origins, p)
		return true
	})
	return pods, errors.Join(errs...)
}

func (s *Source) names() []string { return slices.Sorted(maps.Keys(s.files)) }

// compose makes the cluster's objects of all manifests, if they hang together.
func (s *Source) compose() (map[catalog.Ref]catalog.Object, error) {
	all := &Set{}
	for _, name := range s.names() {
		if set := s.files[name].set; set != nil {
			all.Merge(set)
		}
	}
	if err := Check(all); err != nil {
		return nil, err
	}
	said := notes(all)
	for _, w := range said {
		if !slices.Contains(s.notes, w) {
			s.cfg.Logger.Info("about the manifests", "note", w)
		}
	}
	s.notes = said
	objects, err := objectsOf(all)
	if err != nil {
		s.cfg.Logger.Warn("annotation not understood", "err", err)
	}
	return objects, nil
}

// objectsOf strips a set's objects. The default namespace and each namespace's
// default service account are there without being written.
func objectsOf(set *Set) (map[catalog.Ref]catalog.Object, error) {
	objects := map[catalog.Ref]catalog.Object{}
	var errs []error
	put := func(o catalog.Object) { objects[o.Ref()] = o }
	account := func(ns string) {
		put(&catalog.ServiceAccount{Key: catalog.Key{Namespace: ns, Name: DefaultServiceAccount}})
	}
	put(&catalog.Namespace{Name: DefaultNamespace})
	account(DefaultNamespace)
	for _, n := range set.Namespaces {
		o, err := object.Namespace(n)
		errs = append(errs, err)
		put(o)
		account(n.Name)
	}
	for _, a := range set.ServiceAccounts {
		put(object.ServiceAccount(a))
	}
	for _, v := range set.Services {
		o, err := object.Service(v)
		errs = append(errs, err)
		put(o)
	}
	for _, d := range set.Deployments {
		put(object.Deployment(d))
	}
	for _, d := range set.StatefulSets {
		put(object.StatefulSet(d))
	}
	for _, d := range set.DaemonSets {
		put(object.DaemonSet(d))
	}
	return objects, errors.Join(errs...)
}

// apply tells the catalog what is different from what it was told last.
func (s *Source) apply() {
	now := maps.Clone(s.manifests)
	for _, name := range s.names() {
		for _, p := range s.files[name].pods {
			now[p.Ref()] = p
		}
	}
	s.cfg.Catalog.Apply(catalog.Diff(s.applied, now)...)
	s.applied = now
	s.cfg.Catalog.Sync()
}

// report keeps the problem for Problem, and logs it when it is another.
func (s *Source) report(err error) {
	s.mu.Lock()
	old := s.problem
	s.problem = err
	s.mu.Unlock()
	switch {
	case err != nil && (old == nil || old.Error() != err.Error()):
		s.cfg.Logger.Error("manifests not usable, the last good state stays", "err", strings.ReplaceAll(err.Error(), "\n", "; "))
	case err == nil && old != nil:
		s.cfg.Logger.Info("manifests are usable again")
	}
}
