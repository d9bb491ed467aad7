package podnet

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Teardown removes what Setup made and puts the interface back into P, from
// any half-made state; what is not there is no error. When P is gone, or no
// longer the namespace that NetnsID names, the interface is deleted. It is
// deleted as well when it cannot be moved (an application can make P refuse
// it), with a word in the log, so that a pod can always be removed. A Link
// without an MTU is one whose description was lost: it is given back with its
// addresses only.
func (n *Network) Teardown(log *slog.Logger) error { return n.end(true, log) }

// Discard is Teardown for a pod whose main plugin will not look for its
// interface any more: it is deleted, so that its peer does not stay on the node.
func (n *Network) Discard(log *slog.Logger) error { return n.end(false, log) }

func (n *Network) end(keep bool, log *slog.Logger) error {
	if !filepath.IsAbs(n.Uplink) {
		return fmt.Errorf("tear down: uplink namespace %q is no absolute path", n.Uplink)
	}
	if !validName(n.Link.Name) {
		return fmt.Errorf("tear down: interface name %q is not usable", n.Link.Name)
	}
	p, err := n.openPod()
	if err != nil {
		return err
	}
	if p != nil {
		defer p.close()
		if err := p.dropTUN(n.Link.Name); err != nil {
			return err
		}
		if keep {
			if err := n.putBack(p); err != nil {
				log.Warn("the pod's interface is not put back as it was", "netns", n.Netns, "error", err)
			}
		}
	}
	if err := removeSpace(n.Uplink); err != nil {
		return fmt.Errorf("remove the uplink namespace: %w", err)
	}
	return nil
}

// openPod returns nil when P is gone.
func (n *Network) openPod() (*space, error) {
	if n.Netns == "" {
		return nil, nil
	}
	if n.NetnsID != (ID{}) {
		if id, err := Identify(n.Netns); err != nil || id != n.NetnsID {
			return nil, nil
		}
	}
	return openIfThere(n.Netns)
}

func (n *Network) putBack(p *space) error {
	u, err := openIfThere(n.Uplink)
	if err != nil {
		return err
	}
	if u != nil {
		defer u.close()
		if err := n.giveBack(p, u); err != nil {
			return err
		}
	}
	if n.Link.MTU == 0 {
		return p.raise(&n.Link)
	}
	return p.restore(&n.Link)
}

// raise is what can be done when the description of the interface was lost:
// main plugins look at its addresses when they clean up.
func (s *space) raise(want *Link) error {
	l, err := s.find(want.Name)
	if err != nil || l == nil {
		return err
	}
	if err := s.nl.LinkSetUp(l); err != nil {
		return fmt.Errorf("set %s up in %s: %w", want.Name, s.path, err)
	}
	for _, a := range want.Addrs {
		if err := s.nl.AddrAdd(l, a.netlink()); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add address %s to %s in %s: %w", a.Prefix, want.Name, s.path, err)
		}
	}
	return nil
}
