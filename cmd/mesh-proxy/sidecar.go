package main

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/internal/annotation"
	"github.com/tunmesh/tunmesh/internal/handover"
	"github.com/tunmesh/tunmesh/internal/version"
	"github.com/tunmesh/tunmesh/netstack"
	"github.com/tunmesh/tunmesh/tunproxy"
	"github.com/tunmesh/tunmesh/tunproxy/accesslog"
	"github.com/tunmesh/tunmesh/tunproxy/discover"
	"github.com/tunmesh/tunmesh/tunproxy/mtls"
	"github.com/tunmesh/tunmesh/tunproxy/rpc"
	"github.com/tunmesh/tunmesh/tunproxy/rpc/wire"
	"github.com/tunmesh/tunmesh/tunproxy/tap"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
	"github.com/tunmesh/tunmesh/tunproxy/tracing"
)

// sidecar asks for the queues and serves until ctx ends:
//
//	agent ─▶ TUNs, addresses, trust anchors, where the control plane is
//	control plane ─▶ certificate, policy, targets
func sidecar(ctx context.Context, o options, level *slog.LevelVar, log *slog.Logger) error {
	h, err := handover.Receive(ctx, o.broker)
	if err != nil {
		return err
	}
	m := &h.Message
	if err := configureLog(o, m, level); err != nil {
		return err
	}
	log.Info("queues received", "pod", m.Pod.Namespace+"/"+m.Pod.Name, "addresses", m.Addrs, "mtu", m.MTU, "queues", m.Queues, "control", m.Control, "version", version.String())
	s, err := assemble(o, m, h, level, log)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	wg.Go(func() { h.Hold(inner, log) })
	wg.Go(func() { tendMemory(inner, log) })
	wg.Go(func() { s.follow(inner, log) })
	if s.access != nil {
		wg.Go(func() { s.access.Run(inner) })
	}
	if s.tracer != nil {
		wg.Go(func() { s.tracer.Run(inner) })
	}
	err = s.proxy.Run(ctx)
	cancel()
	wg.Wait()
	return err
}

// parts are what a sidecar is made of.
type parts struct {
	proxy   *tunproxy.Proxy
	control *discover.Client
	access  *accesslog.Log  // nil: none was asked for
	tracer  *tracing.Tracer // nil: there is no collector
}

// follow keeps up with the control plane until ctx ends: it outlasts draining,
// because what drains still dials.
func (s *parts) follow(ctx context.Context, log *slog.Logger) {
	if err := s.control.Run(ctx); err != nil && ctx.Err() == nil {
		log.Error("control plane client ended", "error", err)
		s.proxy.Shutdown()
	}
}

func assemble(o options, m *handover.Message, h *handover.Handover, level *slog.LevelVar, log *slog.Logger) (*parts, error) {
	anchors, err := anchorsOf(m.TrustAnchors)
	if err != nil {
		return nil, err
	}
	grace, err := graceOf(m)
	if err != nil {
		return nil, err
	}
	limits, err := limitsOf(m)
	if err != nil {
		return nil, err
	}
	format, err := accessOf(m)
	if err != nil {
		return nil, err
	}
	s := &parts{}
	if s.access, err = openAccess(format); err != nil {
		return nil, err
	}
	s.tracer, err = tracerOf(m, func() map[string]string { return s.control.Policy().Labels() }, log)
	if err != nil {
		return nil, err
	}
	pod := m.Pod.Namespace + "/" + m.Pod.Name
	metrics := telemetry.New(telemetry.Config{Off: o.uncounted}, version.String())
	store := mtls.NewStore(mtls.Config{})
	if err := store.Update(anchors, nil); err != nil {
		return nil, fmt.Errorf("trust anchors from the agent: %w", err)
	}
	hub, err := tap.New(tap.Config{Pod: pod, Logger: log, Own: m.Control, Connections: func(ctx context.Context, limit int) ([]wire.Connection, int) {
		return s.proxy.Connections(ctx, limit)
	}})
	if err != nil {
		return nil, err
	}
	s.control, err = discover.New(discover.Config{
		Pod: pod, TokenPath: o.token, ControlID: m.ControlID, ControlAddr: m.Control.String(), Store: store, Logger: log, Metrics: metrics,
		Dial:   func(ctx context.Context) (net.Conn, error) { return s.proxy.DialContext(ctx, m.Control) },
		Attach: []func(context.Context, *rpc.Conn) error{hub.Attach},
	})
	if err != nil {
		return nil, err
	}
	app, err := netstack.OpenQueues(h.App)
	if err != nil {
		return nil, fmt.Errorf("app side: %w", err)
	}
	network, err := netstack.OpenQueues(h.Wire)
	if err != nil {
		return nil, fmt.Errorf("wire side: %w", err)
	}
	listeners, err := listenLocal()
	if err != nil {
		return nil, err
	}
	s.proxy, err = tunproxy.New(tunproxy.Config{
		App: app, Wire: network, Addrs: m.Addrs, MTU: int(m.MTU), AllowProtocols: m.AllowProtocols,
		Control: s.control, Identity: store, Metrics: metrics, Tap: hub, Logger: log, Level: level,
		Admin: listeners, Grace: grace, Limits: limits, AccessLog: s.access, Tracer: s.tracer, Unseen: unseen(len(app)),
		Describe: description{
			Version: version.String(), Pod: m.Pod, Addrs: m.Addrs, MTU: m.MTU, Queues: m.Queues, Node: m.Node,
			Control: m.Control, ControlID: m.ControlID.String(), AllowProtocols: m.AllowProtocols,
			Annotations: m.Annotations, Grace: grace.String(),
		},
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// unseen is how long loops may keep a processor while they sleep: where others
// have processors of their own, as long as it takes not to wake the runtime's
// monitor between the packets of a thousand requests a second.
func unseen(loops int) time.Duration {
	if runtime.GOMAXPROCS(0) > loops {
		return 9 * time.Millisecond
	}
	return 0
}

// description is what /config prints.
type description struct {
	Version        string
	Pod            handover.Pod
	Addrs          []netip.Addr
	MTU            uint32
	Queues         int
	Node           string
	Control        netip.AddrPort
	ControlID      string
	AllowProtocols []uint8
	Annotations    map[string]string
	Grace          string
}

func configureLog(o options, m *handover.Message, level *slog.LevelVar) error {
	s := o.level
	if s == "" {
		s = m.Annotations[annotation.ProxyLogLevel]
	}
	if s == "" {
		return nil
	}
	l, err := parseLevel(s)
	if err != nil {
		return fmt.Errorf("annotation %s: %w", annotation.ProxyLogLevel, err)
	}
	level.Set(l)
	return nil
}

// defaultGrace is how long the end may take without an annotation.
const defaultGrace = 2 * time.Minute

func graceOf(m *handover.Message) (time.Duration, error) {
	s, ok := m.Annotations[annotation.ShutdownGracePeriod]
	if !ok {
		return defaultGrace, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("annotation %s: %q is no duration such as 120s", annotation.ShutdownGracePeriod, s)
	}
	return d, nil
}

func limitsOf(m *handover.Message) (l tunproxy.Limits, err error) {
	s, ok := m.Annotations[annotation.ProxyMaxConnections]
	if !ok {
		return l, nil
	}
	l.Connections, err = strconv.Atoi(s)
	if err != nil || l.Connections <= 0 {
		return l, fmt.Errorf("annotation %s: %q is no number of connections", annotation.ProxyMaxConnections, s)
	}
	return l, nil
}

// accessOf is the access log's format.
func accessOf(m *handover.Message) (accesslog.Format, error) {
	name := annotation.AccessLog
	s, ok := m.Annotations[name]
	if !ok {
		name = annotation.LinkerdAccessLog
		s = m.Annotations[name]
	}
	f, err := accesslog.ParseFormat(s)
	if err != nil {
		return f, fmt.Errorf("annotation %s: %w", name, err)
	}
	return f, nil
}

// openAccess makes the access log, on standard output: nothing else of the
// sidecar's is there. By a descriptor of its own: one that nobody reads any more
// would end a Go program that writes to its descriptor 1.
func openAccess(f accesslog.Format) (*accesslog.Log, error) {
	if f == accesslog.Off {
		return nil, nil
	}
	fd, err := unix.FcntlInt(1, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("open the access log: %w", err)
	}
	return accesslog.New(f, os.NewFile(uintptr(fd), "access log")), nil
}

// anchorsOf reads a PEM bundle.
func anchorsOf(bundle string) ([][]byte, error) {
	var all [][]byte
	rest := []byte(bundle)
	for {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type == "CERTIFICATE" {
			all = append(all, b.Bytes)
		}
	}
	if len(all) == 0 {
		return nil, errors.New("the agent handed over no trust anchor: is the agent configured with the mesh's bundle?")
	}
	return all, nil
}

// listenLocal opens the admin port on the pod's loopback interface.
func listenLocal() ([]net.Listener, error) {
	var all []net.Listener
	for _, a := range []string{"127.0.0.1", "::1"} {
		l, err := net.Listen("tcp", net.JoinHostPort(a, strconv.Itoa(annotation.AdminPort)))
		switch {
		case err == nil:
			all = append(all, l)
		case errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EAFNOSUPPORT):
			// a pod of one family
		default:
			for _, l := range all {
				_ = l.Close()
			}
			return nil, fmt.Errorf("listen on the admin port: %w; does the app use it?", err)
		}
	}
	return all, nil
}
