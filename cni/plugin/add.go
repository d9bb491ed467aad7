package plugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/tunmesh/tunmesh/cni/broker"
	"github.com/tunmesh/tunmesh/cni/install"
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
		return conf.unserved(err)
	}
	return j.Do("print the result", func() error {
		raw, err := conf.extended(podnet.WireDevice, st.Made.Uplink)
		if err != nil {
			return err
		}
		return p.print(raw)
	}, nil)
}

// unserved says why there is no agent: the kubelet shows it as the pod's event.
func (c *netConf) unserved(err error) error {
	if c.Journal != "" {
		if j, jerr := install.ReadJournal(c.Journal); jerr == nil && !j.Withdrawn.IsZero() {
			return fail(CodeRefused, fmt.Sprintf(
				"the mesh was removed from this node at %s, and this pod was injected: install the mesh again, or make the pod again without injection; what is left of the mesh goes with the last meshed pod",
				j.Withdrawn.UTC().Format(time.RFC3339)), err)
		}
	}
	return fail(types.ErrTryAgainLater, "the mesh's node agent does not serve the pod", err)
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

func codeOf(err error) uint {
	var e *types.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return types.ErrInternal
}
