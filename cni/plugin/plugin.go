package plugin

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/tunmesh/tunmesh/cni/broker"
)

// Type is the plugin's type in a network configuration: the name of its program.
const Type = "mesh-cni"

// AnnotationsCapability is the capability by which containerd and CRI-O hand a
// pod's annotations to a plugin.
const AnnotationsCapability = "io.kubernetes.cri.pod-annotations"

// Codes of errors that the CNI specification leaves to plugins (100 and up).
const (
	// CodeExists: the container has a network already, or a part of one.
	CodeExists uint = 100 + iota
	// CodeRefused: the pod asked for the mesh and cannot have it.
	CodeRefused
	// CodeChanged: CHECK found something that is not as ADD made it.
	CodeChanged
)

// Agent is the node's agent. broker.Client is one.
type Agent interface {
	// Attach opens the queues of both TUNs and serves the pod's sidecar. The
	// same request again is answered with success.
	Attach(ctx context.Context, r broker.AttachRequest) error
	// Release closes what Attach opened; unknown is no error.
	Release(ctx context.Context, containerID string) error
	// Status returns the agent's version.
	Status(ctx context.Context) (version string, err error)
}

// How long the agent may take. ADD is tried again by the kubelet, and the
// agent's own limit is the same; a DEL goes on without it.
const (
	attachWithin  = 10 * time.Second
	releaseWithin = 5 * time.Second
	statusWithin  = 5 * time.Second
)

// Config of a Plugin.
type Config struct {
	// Agent returns a client of the agent at the socket that the network
	// configuration names. Required.
	Agent func(socket string) Agent
	// Log must not write to standard output, which belongs to CNI. Required.
	Log *slog.Logger
	// Out is where results go; os.Stdout when nil.
	Out io.Writer
	// Version is printed when somebody runs the plugin by hand.
	Version string
	// Last, when set, is called when the last meshed pod of a node from which the
	// mesh was removed is gone: nobody else is there to end what the agent left.
	Last func(ctx context.Context, stateDir string) error
	// Before, when set, is asked before and after each step of ADD; its error
	// fails the step. Tests fail every step with it.
	Before func(step string) error
}

// Plugin answers CNI commands.
type Plugin struct{ cfg Config }

// New makes a Plugin.
func New(cfg Config) *Plugin {
	if cfg.Out == nil {
		cfg.Out = os.Stdout
	}
	return &Plugin{cfg: cfg}
}

// Main answers the command in the environment (CNI_COMMAND), prints its error
// as CNI wants it, and returns the exit code.
func Main(ctx context.Context, cfg Config) int {
	p := New(cfg)
	with := func(f func(context.Context, *skel.CmdArgs) error) func(*skel.CmdArgs) error {
		return func(a *skel.CmdArgs) error { return f(ctx, a) }
	}
	err := skel.PluginMainFuncsWithError(skel.CNIFuncs{
		Add: with(p.Add), Del: with(p.Del), Check: with(p.Check), GC: with(p.GC), Status: with(p.Status),
	}, Versions(), "tunmesh CNI plugin "+cfg.Version)
	if err == nil {
		return 0
	}
	if perr := err.Print(); perr != nil {
		cfg.Log.Error("print the error", "error", perr)
	}
	return 1
}

// Versions of the CNI specification that the plugin speaks: all that have
// chains. Many CNIs still write 0.3.1.
func Versions() version.PluginInfo {
	return version.PluginSupports("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
}

// fail makes an error with a CNI code.
func fail(code uint, msg string, err error) error {
	if err == nil {
		return types.NewError(code, msg, "")
	}
	return types.NewError(code, msg, err.Error())
}

func failf(code uint, format string, args ...any) error {
	return types.NewError(code, fmt.Sprintf(format, args...), "")
}
