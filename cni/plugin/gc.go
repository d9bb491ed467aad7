package plugin

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/tunmesh/tunmesh/cni/podnet"
)

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
	p.finish(ctx, conf)
	return nil
}
