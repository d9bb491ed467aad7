package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/tunmesh/tunmesh/cni/install"
	"github.com/tunmesh/tunmesh/cni/keeper"
)

// callWithin bounds a question to the runtime or the keeper.
const callWithin = 5 * time.Second

// prepareChain copies the plugin, from which the keeper is started, too. It does
// not fail: a node whose disk is full keeps its pods.
func (n *node) prepareChain(ctx context.Context) {
	cfg := *n.cfg.Chain
	if n.runtime != nil {
		ctx, cancel := context.WithTimeout(ctx, callWithin)
		defer cancel()
		name, version, err := n.runtime.Version(ctx)
		if err != nil {
			n.cfg.Log.Warn("the container runtime does not answer", "error", err)
		} else {
			n.cfg.Log.Info("the container runtime", "name", name, "version", version)
		}
		// It calls for DEL what it called for ADD, also when that has left the chain.
		cfg.KeepProgram = name == "cri-o"
	}
	n.cfg.Chain = &cfg
	n.chain = install.NewWatcher(cfg)
	if err := install.New(cfg).PutProgram(); err != nil {
		n.cfg.Log.Error("put the plugin on the node", "error", err)
	}
}

// checks of being ready.
func (n *node) checks() (out []check) {
	if n.chain != nil {
		out = append(out, check{"CNI chain", func(context.Context) error { _, err := n.chain.Status(); return err }})
	}
	if n.runtime != nil {
		out = append(out, check{"container runtime", func(ctx context.Context) error { _, _, err := n.runtime.Version(ctx); return err }})
	}
	return append(out,
		check{"trust anchors", func(context.Context) error { _, err := n.anchors.pem(); return err }},
		check{"control plane", func(context.Context) error { _, err := n.control.addresses(); return err }},
	)
}

// leave removes the mesh from the node, or leaves that to the last meshed pod.
func (n *node) leave(ctx context.Context) error {
	done, err := install.New(*n.cfg.Chain).Withdraw(time.Now())
	if err != nil || !done {
		return err
	}
	n.cfg.Log.Info("the mesh is removed from this node")
	return Clear(ctx, n.cfg.Dir)
}

// Clear ends the keeper and removes all that an agent left in its state folder.
// Nobody may be meshed on the node.
func Clear(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	if k, err := keeper.Dial(ctx, filepath.Join(dir, keeperName)); err == nil {
		err = errors.Join(k.End(), k.Close())
		if err != nil {
			return fmt.Errorf("end the keeper: %w", err)
		}
	}
	var errs []error
	for _, name := range []string{SocketName, keeperName, podsDir, install.Networks, install.LockName} {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, name)))
	}
	// The folder is somebody's mount, or has what is not ours.
	if err := os.Remove(dir); err != nil && errors.Is(err, fs.ErrPermission) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
