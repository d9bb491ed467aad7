package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/tunmesh/tunmesh/control/catalog"
)

// applyDelay is how long a change waits for others that come with it: a rollout
// is many changes of pods and slices, and each costs the snapshots of all targets
// that it touches.
const applyDelay = 20 * time.Millisecond

// SourceConfig says what a Source works with.
type SourceConfig struct {
	Client  Client           // required
	Catalog *catalog.Catalog // required; made with EndpointSlices set
	Logger  *slog.Logger     // nil = discard
	// Lag is told how long ago the cause of a change of endpoints was, whenever
	// one is heard of; nil = nobody asks.
	Lag func(time.Duration)
}

// Source feeds the catalog from the API server.
type Source struct {
	cfg    SourceConfig
	batch  *batch
	stores []*store

	mu       sync.Mutex
	problems map[string]error // by kind: why it is not watched now
	since    map[string]time.Time
	failures uint64
}

// NewSource returns a source; Run makes it work.
func NewSource(cfg SourceConfig) (*Source, error) {
	if cfg.Client == nil || cfg.Catalog == nil {
		return nil, errors.New("new Kubernetes source: client and catalog are both needed")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Source{cfg: cfg, batch: newBatch(), problems: map[string]error{}, since: map[string]time.Time{}}
	for _, k := range kinds(cfg.Client) {
		st := newStore(k, s.batch, cfg.Logger)
		st.lag = cfg.Lag
		s.stores = append(s.stores, st)
	}
	return s, nil
}

// Run follows the cluster until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	for _, st := range s.stores {
		running.Go(func() { s.follow(ctx, st) })
	}
	for _, st := range s.stores {
		select {
		case <-st.synced:
		case <-ctx.Done():
			return nil
		}
	}
	s.cfg.Catalog.Apply(s.batch.take()...)
	s.cfg.Catalog.Sync()
	s.cfg.Logger.Info("the cluster is known", "pods", s.Size(catalog.KindPod), "services", s.Size(catalog.KindService))
	s.batch.run(ctx, s.cfg.Catalog, applyDelay)
	return nil
}

// follow keeps one kind up to date.
func (s *Source) follow(ctx context.Context, st *store) {
	lw := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := st.kind.list(ctx, o)
			s.note(ctx, st.kind.name, err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w, err := st.kind.watch(ctx, o)
			s.note(ctx, st.kind.name, err)
			return w, err
		},
	}, s.cfg.Client)
	runReflector(ctx, st.kind.name, lw, st.kind.example, st)
}

// runReflector runs a reflector until ctx ends. What goes wrong is said by its requests;
// it says nothing itself, which would be once for each try.
func runReflector(ctx context.Context, name string, lw cache.ListerWatcher, example any, st cache.ReflectorStore) {
	quiet := logr.Discard()
	r := cache.NewReflectorWithOptions(lw, example, st, cache.ReflectorOptions{
		Logger: &quiet, Name: name, TypeDescription: name,
		// An API server that has come back is asked within seconds.
		Backoff: &wait.Backoff{Duration: 500 * time.Millisecond, Cap: 10 * time.Second, Steps: 6, Factor: 2, Jitter: 1},
	})
	r.RunWithContext(logr.NewContext(ctx, quiet))
}

// note remembers how the last request about a kind went, and logs when that is
// another way than before.
func (s *Source) note(ctx context.Context, kind string, err error) {
	if err != nil && ctx.Err() != nil {
		return // we are stopping
	}
	err = short(err)
	s.mu.Lock()
	old := s.problems[kind]
	if err == nil {
		delete(s.problems, kind)
		delete(s.since, kind)
	} else {
		s.failures++
		s.problems[kind] = fmt.Errorf("watch %ss: %w", kind, err)
		if old == nil {
			s.since[kind] = time.Now()
		}
	}
	s.mu.Unlock()
	switch {
	case err != nil && old == nil:
		s.cfg.Logger.Error("cluster not followed, the last state stays", "kind", kind, "err", err)
	case err == nil && old != nil:
		s.cfg.Logger.Info("cluster is followed again", "kind", kind)
	}
}

// short leaves the address of a request, which says nothing that the kind does
// not, out of its error.
func short(err error) error {
	if ue := (*url.Error)(nil); errors.As(err, &ue) {
		return ue.Err
	}
	return err
}

// Problem is what keeps the cluster from being followed, nil when nothing does.
func (s *Source) Problem() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, st := range s.stores {
		errs = append(errs, s.problems[st.kind.name])
	}
	return errors.Join(errs...)
}

// Connected tells whether a kind is followed.
func (s *Source) Connected(kind string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.problems[kind] == nil
}

// Kinds lists the names of the kinds that are followed.
func (s *Source) Kinds() []string {
	var names []string
	for _, st := range s.stores {
		names = append(names, st.kind.name)
	}
	return names
}

// Size is the number of objects of a kind.
func (s *Source) Size(kind string) int64 { return s.store(kind).size.Load() }

// Changes is the number of changes of a kind since the start.
func (s *Source) Changes(kind string) uint64 { return s.store(kind).changes.Load() }

// Lists is how often all objects of a kind were read.
func (s *Source) Lists(kind string) uint64 { return s.store(kind).lists.Load() }

// Failures is the number of requests to the API server that failed.
func (s *Source) Failures() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failures
}

// store returns a kind's; asking for one that is not followed is a mistake of
// ours.
func (s *Source) store(kind string) *store {
	return s.stores[slices.IndexFunc(s.stores, func(st *store) bool { return st.kind.name == kind })]
}
