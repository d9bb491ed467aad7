package podnet

import "fmt"

// Check compares the network with what Setup makes and says every difference.
func (n *Network) Check() error {
	if err := n.Validate(); err != nil {
		return err
	}
	p, err := open(n.Netns)
	if err != nil {
		return err
	}
	defer p.close()
	u, err := open(n.Uplink)
	if err != nil {
		return err
	}
	defer u.close()

	quiet := n.quiet(u.hasIPv6())
	diffs, err := u.differingSysctls(quiet)
	if err != nil {
		return err
	}
	for _, part := range []struct {
		s *space
		d *layout
	}{{u, n.uplink(u)}, {u, n.wire()}, {p, n.pod(p.hasIPv6())}} {
		more, err := part.d.verify(part.s)
		if err != nil {
			return err
		}
		diffs = append(diffs, more...)
	}
	if l, err := p.find(n.Link.Name); err == nil && l != nil && l.Type() != "tuntap" {
		diffs = append(diffs, fmt.Sprintf("%s in %s is no TUN but %s", n.Link.Name, p.path, l.Type()))
	}
	if err := p.alone(n.Link.Name); err != nil {
		diffs = append(diffs, err.Error())
	}
	return mismatch(diffs)
}
