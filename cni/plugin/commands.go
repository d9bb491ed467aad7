package plugin

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/tunmesh/tunmesh/cni/broker"
	"github.com/tunmesh/tunmesh/cni/podnet"
)

// uplinkPrefix of the uplink namespace's name, before the container's id: a
// runtime may keep the pod's own namespace under that id.
const uplinkPrefix = "tunmesh-"

func (c *netConf) uplinkPath(id string) string { return filepath.Join(c.NetnsDir, uplinkPrefix+id) }

// Add answers ADD.
func (p *Plugin) Add(ctx context.Context, args *skel.CmdArgs) error {
	conf, err := parseConf(args.StdinData)
	if err != nil {
		return err
	}
	result, err := conf.result()
	if err != nil {
		return err
	}
	yes, err := conf.meshed()
	if err != nil {
		return err
	}
	if !yes {
		return p.print(conf.PrevResult)
	}
	opt, err := parseOptions(conf.RuntimeConfig.Annotations)
	if err != nil {
		return err
	}
	st, err := p.plan(conf, args, result)
	if err != nil {
		return err
	}
	return p.carryOut(ctx, conf, st, opt)
}

// plan says what is to be made; it changes nothing.
func (p *Plugin) plan(conf *netConf, args *skel.CmdArgs, result *types100.Result) (*state, error) {
	st := &state{Version: stateVersion, ContainerID: args.ContainerID, IfName: args.IfName, Network: conf.Name}
	var err error
	if st.Pod, err = parsePod(args.Args); err != nil {
		return nil, err
	}
	st.Made = podnet.Network{Netns: args.Netns, Uplink: conf.uplinkPath(args.ContainerID)}
	if err := conf.vacant(args.ContainerID); err != nil {
		return nil, err
	}
	if st.Made.Addrs, err = podAddrs(result, args.IfName); err != nil {
		return nil, fail(types.ErrInvalidNetworkConfig, err.Error(), nil)
	}
	if st.Made.NetnsID, err = podnet.Identify(args.Netns); err != nil {
		return nil, fail(types.ErrInvalidNetNS, "the pod's network namespace", err)
	}
	if st.Made.Link, err = podnet.Capture(args.Netns, args.IfName); err != nil {
		return nil, fail(CodeRefused, "the pod's network cannot be meshed", err)
	}
	if err := st.Made.Validate(); err != nil {
		return nil, fail(CodeRefused, "the pod's network cannot be meshed", err)
	}
	return st, nil
}

// vacant makes sure that nothing of an earlier ADD is there.
func (c *netConf) vacant(id string) error {
	_, err := newStore(c.StateDir).load(id)
	var garbage *garbageError
	switch {
	case errors.As(err, &garbage):
		return fail(CodeExists, err.Error(), nil)
	case err == nil:
		return failf(CodeExists, "container %s has its network already, or an ADD was cut short: DEL comes before another ADD", id)
	case !errors.Is(err, fs.ErrNotExist):
		return fail(types.ErrIOFailure, err.Error(), nil)
	case podnet.Exists(c.uplinkPath(id)):
		return failf(CodeExists, "container %s has an uplink namespace %s that no state file tells of: DEL removes it", id, c.uplinkPath(id))
	}
	return nil
}

// carryOut makes it, or nothing.
func (p *Plugin) carryOut(ctx context.Context, conf *netConf, st *state, opt options) (err error) {
	j := &podnet.Journal{Before: p.cfg.Before}
	defer func() {
		if err == nil {
			return
		}
		if uerr := j.Undo(); uerr != nil {
			p.cfg.Log.Error("undo a failed ADD", "container", st.ContainerID, "error", uerr)
			err = fail(codeOf(err), "ADD failed, and so did undoing it: DEL tries again", errors.Join(err, uerr))
		}
	}()

	states, created := newStore(conf.StateDir), false
	err = j.Do("write the state file", func() error {
		err := states.create(st)
		created = err == nil
		return err
	}, func() error {
		if !created {
			return nil // it may be another ADD's
		}
		return states.remove(st.ContainerID)
	})
	if errors.Is(err, fs.ErrExist) {
		return failf(CodeExists, "container %s is being given its network by another ADD", st.ContainerID)
	}
	if err != nil {
		return fail(types.ErrIOFailure, err.Error(), nil)
	}
	if err := st.Made.Setup(j); err != nil {
		return fail(types.ErrInternal, "set up the pod's network", err)
	}

	agent := p.cfg.Agent(conf.AgentSocket)
	release := func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseWithin)
		defer cancel()
		return agent.Release(ctx, st.ContainerID)
	}
	err = j.Do("attach the queues", func() error {
		ctx, cancel := context.WithTimeout(ctx, attachWithin)
		defer cancel()
		return agent.Attach(ctx, st.request(opt))
	}, func() error {
		if err := release(); err != nil {
			// Normally the reason of the failure itself: the agent is not there.
			p.cfg.Log.Warn("the agent does not release the queues", "container", st.ContainerID, "error", err)
		}
		return nil
	})
	if err != nil {
		return fail(types.ErrTryAgainLater, "the mesh's node agent does not serve the pod", err)
	}
	return j.Do("print the result", func() error {
		raw, err := conf.extended(podnet.WireDevice, st.Made.Uplink)
		if err != nil {
			return err
		}
		return p.print(raw)
	}, nil)
}

func (st *state) request(opt options) broker.AttachRequest {
	return broker.AttachRequest{
		Sandbox: st.ContainerID, Pod: st.Pod,
		AppNetns: st.Made.Netns, WireNetns: st.Made.Uplink, AppDevice: st.IfName, WireDevice: podnet.WireDevice,
		Addrs: st.Made.Addrs, MTU: uint32(st.Made.Link.MTU), Queues: opt.queues,
		AllowProtocols: opt.allowProtocols, Annotations: opt.handed,
	}
}

func (p *Plugin) print(result []byte) error {
	if _, err := p.cfg.Out.Write(append(slices.Clip(result), '\n')); err != nil {
		return fail(types.ErrIOFailure, "print the result", err)
	}
	return nil
}

// Del answers DEL. It needs neither an ADD before it nor a namespace, and goes
// on without the agent, which finds out by itself that the pod is gone.
func (p *Plugin) Del(ctx context.Context, args *skel.CmdArgs) error {
	conf, err := parseConf(args.StdinData)
	if err != nil {
		return err
	}
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
		st.Made.Netns, st.Made.NetnsID = args.Netns, podnet.ID{}
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

// Check answers CHECK: everything is as ADD made it.
func (p *Plugin) Check(_ context.Context, args *skel.CmdArgs) error {
	conf, err := parseConf(args.StdinData)
	if err != nil {
		return err
	}
	result, err := conf.result()
	if err != nil {
		return err
	}
	st, err := newStore(conf.StateDir).load(args.ContainerID)
	if errors.Is(err, fs.ErrNotExist) {
		if conf.RuntimeConfig.Annotations == nil {
			return nil // a pod that was passed through, for all that can be known
		}
		yes, err := conf.meshed()
		if err == nil && yes {
			err = failf(CodeChanged, "the pod was injected, but container %s has no state file in %s: it has no mesh network", args.ContainerID, conf.StateDir)
		}
		return err
	}
	if err != nil {
		return fail(CodeChanged, err.Error(), nil)
	}
	if st.IfName != args.IfName {
		return nil
	}
	addrs, err := podAddrs(result, args.IfName)
	if err != nil {
		return fail(types.ErrInvalidNetworkConfig, err.Error(), nil)
	}
	if !slices.Equal(addrs, st.Made.Addrs) {
		return failf(CodeChanged, "prevResult gives the pod %v, but it was set up with %v", addrs, st.Made.Addrs)
	}
	if !slices.ContainsFunc(result.Interfaces, func(i *types100.Interface) bool {
		return i != nil && i.Name == podnet.WireDevice && i.Sandbox == st.Made.Uplink
	}) {
		return failf(CodeChanged, "prevResult does not list %s in %s", podnet.WireDevice, st.Made.Uplink)
	}
	st.Made.Netns = args.Netns
	if err := st.Made.Check(); err != nil {
		return fail(CodeChanged, "the pod's network is not as it was made", err)
	}
	return nil
}

// Status answers STATUS: ADD of an injected pod needs the agent.
func (p *Plugin) Status(ctx context.Context, args *skel.CmdArgs) error {
	conf, err := parseConf(args.StdinData)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, statusWithin)
	defer cancel()
	if _, err := p.cfg.Agent(conf.AgentSocket).Status(ctx); err != nil {
		return fail(types.ErrPluginNotAvailable, "the mesh's node agent does not answer: injected pods cannot start", err)
	}
	return nil
}

// GC answers GC: what belongs to this network and to none of the valid
// attachments is removed, and so is an uplink namespace that no file tells of.
func (p *Plugin) GC(ctx context.Context, args *skel.CmdArgs) error {
	conf, err := parseConf(args.StdinData)
	if err != nil {
		return err
	}
	valid := func(id, ifName string) bool {
		return slices.ContainsFunc(conf.ValidAttachments, func(a types.GCAttachment) bool {
			return a.ContainerID == id && (ifName == "" || a.IfName == ifName)
		})
	}
	states := newStore(conf.StateDir)
	ids, err := states.ids()
	if err != nil {
		return fail(types.ErrIOFailure, err.Error(), nil)
	}
	var errs []error
	for _, id := range ids {
		st, err := states.load(id)
		switch {
		case err != nil:
			// Whose network it was is not known: its DEL removes it.
			p.cfg.Log.Warn("leave a state file", "container", id, "error", err)
		case st.Network == conf.Name && !valid(id, st.IfName):
			errs = append(errs, p.drop(ctx, conf, id, st.Made.Discard))
		}
	}
	strays, err := filepath.Glob(filepath.Join(conf.NetnsDir, uplinkPrefix+"*"))
	if err != nil {
		return fail(types.ErrIOFailure, "list uplink namespaces", err)
	}
	for _, path := range strays {
		id := strings.TrimPrefix(filepath.Base(path), uplinkPrefix)
		if slices.Contains(ids, id) || valid(id, "") {
			continue
		}
		if _, err := os.Lstat(states.path(id)); err == nil {
			continue // an ADD that began meanwhile
		}
		n := podnet.Network{Uplink: path, Link: podnet.Link{Name: "eth0"}}
		errs = append(errs, p.drop(ctx, conf, id, n.Discard))
	}
	if err := errors.Join(errs...); err != nil {
		return fail(types.ErrInternal, "remove networks of containers that are gone", err)
	}
	return nil
}

func codeOf(err error) uint {
	var e *types.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return types.ErrInternal
}
