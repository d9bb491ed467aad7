package discover

import (
	"net/netip"
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/authz"
)

// NewTarget makes a Target that no stream feeds, for tests of those who use
// one; Publish changes it.
func NewTarget(addr netip.AddrPort, s *Snapshot) *Target {
	t := &Target{addr: addr, client: &Client{cfg: Config{Now: time.Now}}}
	t.snap.Store(s)
	return t
}

// Publish replaces the snapshot of a Target that NewTarget made, and tells the
// subscribers.
func (t *Target) Publish(s *Snapshot) { t.publish(s) }

// NewPolicy makes a Policy that no stream feeds, for tests of those who use one.
func NewPolicy(a *authz.Policy, labels map[string]string) *Policy {
	return &Policy{authz: a, labels: labels}
}
