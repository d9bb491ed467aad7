package plugin

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/tunmesh/tunmesh/cni/install"
	"github.com/tunmesh/tunmesh/cni/podnet"
)

// Del answers DEL. It needs neither an ADD before it nor a namespace, and goes
// on without the agent, which finds out by itself that the pod is gone.
func (p *Plugin) Del(ctx context.Context, args *skel.CmdArgs) error {
	conf, err := parseConf(args.StdinData)
	if err != nil {
		return err
	}
	if err := p.del(ctx, conf, args); err != nil {
		return err
	}
	p.finish(ctx, conf)
	return nil
}

// finish takes the plugin out of the chain if the mesh was removed from this
// node and the last meshed pod is gone. What cannot be done is tried again by
// the next DEL, and is no reason to keep a pod from ending.
func (p *Plugin) finish(ctx context.Context, conf *netConf) {
	if conf.Journal == "" {
		return
	}
	done, err := install.Finish(conf.Journal, Type, p.cfg.Log)
	if err == nil && done && p.cfg.Last != nil {
		err = p.cfg.Last(ctx, conf.StateDir)
	}
	if err != nil {
		p.cfg.Log.Warn("remove what is left of the mesh", "error", err)
	}
}

func (p *Plugin) del(ctx context.Context, conf *netConf, args *skel.CmdArgs) error {
	st, err := newStore(conf.StateDir).load(args.ContainerID)
	var garbage *garbageError
	switch {
	case err == nil:
		if st.IfName != args.IfName {
			return nil // another network of the container, which is not meshed
		}
		if args.Netns == "" {
			return p.drop(ctx, conf, args.ContainerID, st.Made.Discard)
		}
		// The path may be used again (a PID in it, say): NetnsID stays and tells.
		st.Made.Netns = args.Netns
		return p.drop(ctx, conf, args.ContainerID, st.Made.Teardown)
	case errors.Is(err, fs.ErrNotExist):
		if !podnet.Exists(conf.uplinkPath(args.ContainerID)) {
			return nil
		}
	case errors.As(err, &garbage):
		p.cfg.Log.Warn("remove what is there without knowing how it was", "container", args.ContainerID, "error", err)
	default:
		return fail(types.ErrIOFailure, err.Error(), nil)
	}
	n := podnet.Network{Netns: args.Netns, Uplink: conf.uplinkPath(args.ContainerID), Link: podnet.Link{Name: args.IfName}}
	n.Link.Addrs = conf.lostAddrs()
	if args.Netns == "" {
		return p.drop(ctx, conf, args.ContainerID, n.Discard)
	}
	return p.drop(ctx, conf, args.ContainerID, n.Teardown)
}

// lostAddrs are the addresses of the pod's interface as prevResult has them.
func (c *netConf) lostAddrs() (out []podnet.Addr) {
	r, err := c.result()
	if err != nil {
		return nil
	}
	for _, ip := range r.IPs {
		if ip == nil {
			continue
		}
		a, ok := netip.AddrFromSlice(ip.Address.IP)
		ones, bits := ip.Address.Mask.Size()
		if ok && bits != 0 {
			out = append(out, podnet.Addr{Prefix: netip.PrefixFrom(a.Unmap(), ones)})
		}
	}
	return out
}

// drop ends a container's network and forgets it. The file goes last, so that
// what is cut short is done again.
func (p *Plugin) drop(ctx context.Context, conf *netConf, id string, end func(*slog.Logger) error) error {
	rctx, cancel := context.WithTimeout(ctx, releaseWithin)
	defer cancel()
	if err := p.cfg.Agent(conf.AgentSocket).Release(rctx, id); err != nil {
		p.cfg.Log.Warn("the agent does not release the queues: it will when it comes back", "container", id, "error", err)
	}
	if err := end(p.cfg.Log); err != nil {
		return fail(types.ErrInternal, "remove the pod's network", err)
	}
	if err := newStore(conf.StateDir).remove(id); err != nil {
		return fail(types.ErrIOFailure, err.Error(), nil)
	}
	return nil
}
