package serving

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// Store is where an authority lives. A save that somebody else was
// quicker with fails; what they saved is told by Authority, and is as good.
type Store interface {
	// SaveAuthority keeps data for all replicas.
	SaveAuthority(ctx context.Context, data map[string][]byte) error
	// SaveBundle has the API server believe a bundle, PEM.
	SaveBundle(ctx context.Context, bundle []byte) error
}

const (
	keeperPeriod = time.Minute
	saveTimeout  = 15 * time.Second
	// settle is how long after the API server was told of a new authority
	// certificates of the one before are still served: it has several processes,
	// and each hears of it when it does.
	settle = 10 * time.Second
)

// Keeper keeps the certificate of one server, the injector's for example. Each replica has a key of its own,
// which never leaves its memory, signed by an authority that all share:
//
//	no authority, or an old one ──► make one, keep it in the Store
//	the API server's bundle is another than the Store's ──► put it there
//	it believes the newest authority ──► serve with what that one signs
//
// Each step is safe when several do it at once: what is kept is replaced only as it
// was read, and all put the same bundle. So no replica needs to be the one.
type Keeper struct {
	store Store
	what  string
	names []string
	log   *slog.Logger
	now   func() time.Time

	events chan event
	leaf   atomic.Pointer[tls.Certificate]
	fault  atomic.Pointer[string]

	// What Run knows.
	told    bool // what is kept has been told of
	data    map[string][]byte
	hooks   bool // the configuration has been told of
	there   bool // and exists
	bundle  []byte
	settled time.Time // when the newest authority may be served with; zero = not believed yet
	newest  string    // of which settled speaks
}

type event struct {
	secret bool
	exists bool
	data   map[string][]byte
	bundle []byte
}

// NewKeeper returns one for a server that is known by some DNS names; what is what
// people call it.
func NewKeeper(store Store, log *slog.Logger, what string, names ...string) *Keeper {
	k := &Keeper{store: store, what: what, names: names, log: log, now: time.Now, events: make(chan event)}
	unread := "the authority of " + what + " has not been read yet"
	k.fault.Store(&unread)
	return k
}

// Authority says what is kept now; nil: there is none. It blocks until Run
// has heard, or ctx ends.
func (k *Keeper) Authority(ctx context.Context, data map[string][]byte) {
	k.send(ctx, event{secret: true, data: data})
}

// Bundle says what the API server believes now; exists is unset where there is no
// place for one at all. It blocks as Authority does.
func (k *Keeper) Bundle(ctx context.Context, exists bool, bundle []byte) {
	k.send(ctx, event{exists: exists, bundle: bundle})
}

func (k *Keeper) send(ctx context.Context, e event) {
	select {
	case k.events <- e:
	case <-ctx.Done():
	}
}

// Certificate is the one to serve with.
func (k *Keeper) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c := k.leaf.Load()
	if c == nil {
		return nil, fmt.Errorf("%s has no certificate yet: %s", k.what, k.Problem())
	}
	return c, nil
}

// Expires is when the certificate does; zero while there is none.
func (k *Keeper) Expires() time.Time {
	if c := k.leaf.Load(); c != nil {
		return c.Leaf.NotAfter
	}
	return time.Time{}
}

// Problem is what keeps the server from having the certificate that it should,
// "" when nothing does.
func (k *Keeper) Problem() string { return *k.fault.Load() }

func (k *Keeper) fail(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if old := k.fault.Swap(&text); text != "" && *old != text {
		k.log.Warn("serving certificate", "of", k.what, "problem", text)
	}
}

// Run keeps the certificate until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	timer := time.NewTimer(keeperPeriod)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-k.events:
			k.hear(e)
		case <-timer.C:
		}
		next := keeperPeriod
		if err := k.step(ctx); err != nil {
			next = 2 * time.Second // a conflict, or an API server that is away
			k.fail(err)
		}
		if wait := k.settled.Sub(k.now()); wait > 0 {
			next = min(next, wait)
		}
		timer.Reset(next)
	}
}

func (k *Keeper) hear(e event) {
	if e.secret {
		k.told, k.data = true, e.data
		return
	}
	k.hooks, k.there, k.bundle = true, e.exists, e.bundle
}

// step does what is to be done next. It is called again after each event, its own
// deeds' among them.
func (k *Keeper) step(ctx context.Context) error {
	if !k.told || !k.hooks {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, saveTimeout)
	defer cancel()
	fresh, err := renew(k.what, k.data, k.now())
	if err != nil {
		return err
	}
	if fresh != nil {
		if err := k.store.SaveAuthority(ctx, fresh); err != nil {
			return fmt.Errorf("keep the authority of %s: %w", k.what, err)
		}
		k.log.Info("made an authority", "of", k.what)
		k.data = fresh
	}
	c, err := parseCA(k.data)
	if err != nil {
		return fmt.Errorf("read the authority of %s: %w", k.what, err)
	}
	if k.there && !whole(k.bundle, k.data[BundleKey]) {
		if err := k.store.SaveBundle(ctx, k.data[BundleKey]); err != nil {
			return fmt.Errorf("have the API server believe the authority of %s: %w", k.what, err)
		}
		k.log.Info("told the API server of an authority", "of", k.what)
		k.bundle = k.data[BundleKey]
	}
	if !k.there {
		k.fail(errors.New(k.what + " is not registered with the API server: nobody asks"))
	} else {
		k.fail(nil)
	}
	return k.serve(c)
}

// serve makes the certificate to serve with, when it is time for another.
func (k *Keeper) serve(c *ca) error {
	now := k.now()
	if id := c.bundle[0].SerialNumber.String(); k.newest != id {
		k.newest, k.settled = id, time.Time{}
	}
	old := k.leaf.Load()
	usable := old != nil && now.Before(old.Leaf.NotAfter) && c.knows(old) // else nobody believes it any more
	switch {
	case c.signed(old) && now.Before(old.Leaf.NotAfter.Add(-leafLifetime/2)):
		return nil
	case usable && !c.signed(old):
		if k.settled.IsZero() && c.believed(k.bundle) {
			k.settled = now.Add(settle)
		}
		if k.settled.IsZero() || now.Before(k.settled) {
			return nil
		}
	}
	leaf, err := c.issue(k.what, k.names, now)
	if err != nil {
		return err
	}
	k.leaf.Store(leaf)
	k.log.Info("serving certificate made", "of", k.what, "not_after", leaf.Leaf.NotAfter)
	return nil
}
