// Package holder is the process that a local mesh lives in: pid 1 of a node of
// its own. It composes the node, the sandboxes' base, CNI, DNS, the kubelet,
// the control plane and the agent (programs beside meshctl), and serves
// commands. It owns their order; each part's work is its own.
//
//  1. The launcher (meshctl local up) claims the state folder and starts the
//     holder, which furnishes the node and reports progress on a pipe.
//  2. Control plane and agent are started and kept running; pods begin when
//     both have what they need, retrying until then.
//  3. It ends when asked (down), when its launcher in the foreground ends, or
//     by a signal: pods first, in order; the kernel ends the rest with pid 1.
package holder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/child"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/cninet"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/ctl"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/dnsserver"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/kubelet"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/node"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/rotate"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/sandbox"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/state"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/store"
	"github.com/tunmesh/tunmesh/cni/broker"
	"github.com/tunmesh/tunmesh/cni/plugin"
	"github.com/tunmesh/tunmesh/control"
	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/files"
	"github.com/tunmesh/tunmesh/control/inject"
	"github.com/tunmesh/tunmesh/control/token"
	"github.com/tunmesh/tunmesh/internal/version"
)

// The holder's descriptors, beside the standard ones.
const (
	fdReport = 3 // Report lines, written by the holder
	fdLife   = 4 // read end of a pipe; its end, in the foreground, ends the mesh
	// 5 is the state folder's lock: only to be held.
)

// Config is what the launcher tells the holder, as JSON on the command line.
type Config struct {
	Dir  state.Dir
	Slot int
	// Bin is the folder of meshctl and the other programs.
	Bin string
	// Foreground: the mesh ends with its launcher.
	Foreground bool
	// Grace bounds the end of pods when the launcher ends.
	Grace time.Duration
	// MaxBackoff bounds the wait before a container starts again.
	MaxBackoff time.Duration
	// MTU of the pods' interfaces; 0 is the kernel's default.
	MTU int
	// Verbose logs details.
	Verbose bool
}

// Report is a line of the holder's progress.
type Report struct {
	Step  string `json:",omitempty"` // what is done now
	Ready bool   `json:",omitempty"` // commands are served
	Err   string `json:",omitempty"` // it failed
}

// idBase is the first user id of the first mesh's pods: above what is given to
// users, containers and services by systemd, shadow and the like, below 2^31.
const idBase = 1879048192

// Networks of a mesh. Each is in a network namespace of its own, so that all
// meshes have the same.
func podRanges() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24"), netip.MustParsePrefix("fd00:10:244::/64")}
}

func serviceRanges() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10:96::/112")}
}

const bridge = "br0"

// holder is the composition.
type holder struct {
	cfg     Config
	log     *slog.Logger
	report  *json.Encoder
	store   *store.Store
	kubelet *kubelet.Kubelet
	tokens  *token.Key
	control *child.Program
	agent   *child.Program
	end     context.CancelCauseFunc // ends the mesh
	ended   chan struct{}           // closed when pods have ended
}

// errAsked ends the holder in good order.
var errAsked = errors.New("asked to end")

// Main is the holder's process; it returns the exit code.
func Main(raw string) int {
	// What the launcher gave is for this process alone.
	if err := unix.CloseRange(fdReport, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		fmt.Fprintln(os.Stderr, "keep descriptors from children (Linux 5.11 or newer is needed):", err)
		return 1
	}
	h := &holder{report: json.NewEncoder(os.NewFile(fdReport, "report")), ended: make(chan struct{})}
	err := json.Unmarshal([]byte(raw), &h.cfg)
	if err == nil {
		err = h.run()
	}
	if err != nil {
		_ = h.report.Encode(Report{Err: err.Error()}) // the launcher may have left
		if h.log != nil {
			h.log.Error("the mesh failed", "error", err)
		}
		return 1
	}
	return 0
}

func (h *holder) step(s string) { _ = h.report.Encode(Report{Step: s}) }

func (h *holder) run() error {
	logs, err := rotate.Open(h.cfg.Dir.Log(), 4<<20)
	if err != nil {
		return err
	}
	level := slog.LevelInfo
	if h.cfg.Verbose {
		level = slog.LevelDebug
	}
	h.log = slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: level}))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ctx, h.end = context.WithCancelCause(ctx)
	defer h.end(nil)
	if h.cfg.Foreground {
		go h.followLauncher()
	}
	h.step("making the node")
	if err := node.Furnish(node.Config{Hostname: "tunmesh-" + h.cfg.Dir.Name(), Keep: string(h.cfg.Dir)}); err != nil {
		return err
	}
	return h.serve(ctx)
}

// followLauncher ends the mesh when the launcher does, whatever ended it.
func (h *holder) followLauncher() {
	_, _ = os.NewFile(fdLife, "life").Read(make([]byte, 1))
	h.end(errAsked)
}

// serve composes the parts and runs them until the mesh ends.
func (h *holder) serve(ctx context.Context) error {
	l, err := listen(h.cfg.Dir.Socket())
	if err != nil {
		return err
	}
	if err := h.compose(ctx); err != nil {
		return err
	}
	names, err := catalog.New(catalog.Config{})
	if err != nil {
		return err
	}
	source, err := files.NewSource(files.SourceConfig{Dirs: []string{h.cfg.Dir.Manifests(), h.cfg.Dir.Pods()}, Catalog: names, Logger: h.log.With("part", "dns")})
	if err != nil {
		return err
	}
	dns := &dnsserver.Server{Addr: ":53", Names: names, Log: h.log.With("part", "dns")}

	// Pods end before what serves them.
	parts, stopParts := context.WithCancel(context.WithoutCancel(ctx))
	defer stopParts()
	g, gctx := errgroup.WithContext(parts)
	g.Go(func() error { h.control.Run(gctx); return nil })
	g.Go(func() error { h.agent.Run(gctx); return nil })
	g.Go(func() error { child.Reap(gctx); return nil })
	g.Go(func() error { return source.Run(gctx) })
	dnsUp := make(chan struct{})
	g.Go(func() error { return dns.Run(gctx, dnsUp) })
	g.Go(func() error { return h.kubelet.Run(gctx) })
	g.Go(func() error { return (&ctl.Server{Handler: h, Log: h.log}).Run(gctx, l) })
	g.Go(func() error { return h.untilEnd(ctx, gctx, stopParts) })

	select {
	case <-dnsUp:
		h.awaitPrograms(gctx)
		_ = h.report.Encode(Report{Ready: true})
	case <-gctx.Done():
	}
	return g.Wait()
}

// answerTime bounds the wait for the control plane and the agent. Pods made
// without them would only have to be made again.
const answerTime = 15 * time.Second

// awaitPrograms returns when both programs answer.
func (h *holder) awaitPrograms(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if c, a := h.health(ctx); c && a {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			h.log.Warn("the control plane or the agent does not answer yet, going on; see their logs")
			return
		}
	}
}

// untilEnd waits until the mesh is to end, ends the pods, and then the parts.
func (h *holder) untilEnd(ctx, parts context.Context, stop func()) error {
	defer stop()
	select {
	case <-ctx.Done():
	case <-parts.Done(): // a part failed
		return nil
	}
	grace := h.cfg.Grace
	var d downCause
	if errors.As(context.Cause(ctx), &d) {
		grace = d.grace
	}
	drain, cancel := context.WithTimeout(parts, grace+5*time.Second)
	defer cancel()
	err := h.kubelet.Drain(drain, grace)
	if err != nil {
		h.log.Warn("end the pods", "error", err)
	}
	close(h.ended)
	// Let the one who asked have the answer.
	t := time.NewTimer(50 * time.Millisecond)
	defer t.Stop()
	<-t.C
	return nil
}

// downCause is an end that was asked for with a grace of its own.
type downCause struct{ grace time.Duration }

func (downCause) Error() string { return errAsked.Error() }

func listen(path string) (*net.UnixListener, error) {
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("serve commands: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil { // its folder is root's alone already
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// compose makes the parts; none of them runs yet.
func (h *holder) compose(ctx context.Context) error {
	h.step("preparing sandboxes")
	if err := os.Mkdir("/run/tunmesh/base", 0o755); err != nil {
		return err
	}
	base, err := sandbox.NewBase(ctx, sandbox.BaseConfig{Dir: "/run/tunmesh/base", Bins: h.cfg.Bin, Sealed: []string{"mesh-proxy"}, Log: h.log})
	if err != nil {
		return err
	}
	pods, services := podRanges(), serviceRanges()
	if !ipv6() {
		pods, services = pods[:1], services[:1]
	}
	conflist, err := plugin.Conflist{Name: "tunmesh", Bridge: bridge, Subnets: pods, IPAMDir: "/run/tunmesh/ipam", MTU: h.cfg.MTU}.JSON()
	if err != nil {
		return err
	}
	network, err := cninet.New(cninet.Config{
		ConfDir: "/run/tunmesh/net.d", CacheDir: "/run/tunmesh/cni",
		BinDirs:  []string{h.cfg.Bin, filepath.Join(h.cfg.Bin, "cni")},
		Conflist: conflist,
	})
	if err != nil {
		return err
	}
	if h.tokens, err = token.Open(filepath.Join(h.cfg.Dir.Control(), control.TokenDir)); err != nil {
		return err
	}
	if err := h.programs(pods, services); err != nil {
		return err
	}
	var gateways []netip.Addr
	for _, p := range pods {
		gateways = append(gateways, p.Masked().Addr().Next())
	}
	injection := inject.Config{Version: version.String(), OptIn: true}
	h.kubelet = kubelet.New(kubelet.Config{
		Base: base, Network: network, Registrar: broker.Client{Path: agentSocket},
		Status: podFiles{dir: h.cfg.Dir.Pods()}, Tokens: minter{h.tokens}, Inject: injection,
		LogDir: h.cfg.Dir.Logs(), NodeName: "tunmesh-" + h.cfg.Dir.Name(), HostIP: gateways[0], DNS: gateways[:1],
		IDBase: idBase + uint32(h.cfg.Slot)*kubelet.MaxPods*sandbox.IDs, MaxBackoff: h.cfg.MaxBackoff, Log: h.log,
	})
	h.store = store.New(store.Config{
		Dir: h.cfg.Dir.Manifests(), ServiceRanges: services,
		Check: func(s *files.Set) error { return kubelet.Refuse(s, injection) },
	})
	return nil
}

func ipv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}
