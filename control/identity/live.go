package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Live is an Authority that others keep, such as a ConfigMap of anchors and a
// Secret of an issuer: whoever follows those tells Live. Anchors and issuer come
// in any order; what does not fit together changes nothing until it does.
type Live struct {
	holder
	now     func() time.Time
	updates chan update

	anchors, cert, key []byte            // Run's
	missing            map[string]string // what there is not, and why
}

// update is one word about what there is now.
type update struct {
	what  string // "trust anchors" or "issuer"
	where string // for people
	cert  []byte
	key   []byte
}

const (
	theAnchors = "trust anchors"
	theIssuer  = "issuer"
)

// NewLive returns one that knows nothing yet: Current is nil.
func NewLive(log *slog.Logger) *Live {
	l := &Live{
		holder: newHolder(log), now: time.Now, updates: make(chan update),
		missing: map[string]string{theAnchors: notYet, theIssuer: notYet},
	}
	l.broken = "trust anchors and issuer have not been read yet"
	return l
}

const notYet = "not read yet"

// SetAnchors says what the trust anchors are now, PEM; none where there is no such
// thing. where names the place that they are kept in. It blocks until Run has
// heard, or ctx ends.
func (l *Live) SetAnchors(ctx context.Context, where string, pem []byte) {
	l.set(ctx, update{what: theAnchors, where: where, cert: pem})
}

// SetIssuer says what the issuer's certificate and key are now, as SetAnchors does.
func (l *Live) SetIssuer(ctx context.Context, where string, cert, key []byte) {
	l.set(ctx, update{what: theIssuer, where: where, cert: cert, key: key})
}

func (l *Live) set(ctx context.Context, u update) {
	select {
	case l.updates <- u:
	case <-ctx.Done():
	}
}

// Run takes what it is told, and looks at the dates from time to time, until ctx
// ends.
func (l *Live) Run(ctx context.Context) error {
	timer := time.NewTimer(reloadPeriod)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case u := <-l.updates:
			l.take(u)
		case <-timer.C:
			timer.Reset(reloadPeriod)
		}
		l.judge()
	}
}

func (l *Live) take(u update) {
	delete(l.missing, u.what)
	if len(u.cert) == 0 {
		l.missing[u.what] = "there is nothing in " + u.where
	}
	if u.what == theAnchors {
		l.anchors = u.cert
		return
	}
	l.cert, l.key = u.cert, u.key
}

// judge puts what there is in force if it may be.
func (l *Live) judge() {
	if l.missing[theAnchors] == notYet || l.missing[theIssuer] == notYet {
		return // its watch tells why
	}
	var errs []error
	for _, what := range []string{theAnchors, theIssuer} {
		if why, ok := l.missing[what]; ok {
			errs = append(errs, fmt.Errorf("read %s: %s", what, why))
		}
	}
	if err := errors.Join(errs...); err != nil {
		l.report(err)
		return
	}
	a, err := NewAuthority(l.anchors, l.cert, l.key, l.now())
	if err != nil {
		l.report(err)
		return
	}
	l.adopt(a)
}
