package plugin

import (
	"context"
	"errors"
	"io/fs"
	"slices"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/tunmesh/tunmesh/cni/podnet"
)

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

// Status answers STATUS: ADD of an injected pod needs the agent. In a chain of
// somebody else's that is no reason to fail: the runtime would take the whole
// node for not ready, and pods that are not meshed need no agent.
func (p *Plugin) Status(ctx context.Context, args *skel.CmdArgs) error {
	conf, err := parseConf(args.StdinData)
	if err != nil || conf.Journal != "" {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, statusWithin)
	defer cancel()
	if _, err := p.cfg.Agent(conf.AgentSocket).Status(ctx); err != nil {
		return fail(types.ErrPluginNotAvailable, "the mesh's node agent does not answer: injected pods cannot start", err)
	}
	return nil
}
