package telemetry

import (
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/flow"
)

// Metrics are all families of a sidecar.
type Metrics struct {
	Registry *Registry
	// TCP and HTTP count the application's traffic.
	TCP  *Transports
	HTTP *Requests
	// Policy's decisions: inbound_{http,tcp}_authz_{allow,deny}_total and
	// inbound_tcp_authz_terminate_total, by Labels.
	HTTPAllowed, HTTPDenied, TCPAllowed, TCPDenied, TCPTerminated *Counters
	// Identity counts certificates.
	Identity *Identity
	// Routes counts what becomes of requests to a Service.
	Routes *Routes
	// Served counts requests to the pod by what policy knows of them.
	Served *Served
	// Balancers counts the endpoints of Services and requests that wait for them;
	// TCPBalancers the same for connections that carry bytes.
	Balancers, TCPBalancers *Balancers
	// Connections counts what becomes of connections to a Service, and Detections,
	// by direction, what it took to know what connections speak.
	Connections *Connections
	Detections  [2]*Detections
	// Datagrams counts UDP, and names that are resolved.
	Datagrams *Datagrams
	// Control counts calls to the control plane.
	Control *Control

	httpErrors, tcpErrors [2]*Counters // by direction
	handshakes            *Counters
}

// Off reports whether nothing is counted by labels, so that it is not worth
// gathering what would be.
func (m *Metrics) Off() bool { return m.Registry.cfg.Off }

// New registers every family of a sidecar of the given release.
func New(c Config, release string) *Metrics {
	r := NewRegistry(c)
	m := &Metrics{
		Registry:      r,
		HTTP:          NewRequests(r, ""),
		TCP:           NewTransports(r),
		HTTPAllowed:   NewCounters(r, "inbound_http_authz_allow_total", "Total count of inbound HTTP requests that were authorized."),
		HTTPDenied:    NewCounters(r, "inbound_http_authz_deny_total", "Total count of inbound HTTP requests that were denied."),
		TCPAllowed:    NewCounters(r, "inbound_tcp_authz_allow_total", "Total count of inbound TCP connections that were authorized."),
		TCPDenied:     NewCounters(r, "inbound_tcp_authz_deny_total", "Total count of inbound TCP connections that were denied."),
		TCPTerminated: NewCounters(r, "inbound_tcp_authz_terminate_total", "Total count of inbound TCP connections closed because policy no longer allows them."),
		handshakes:    NewCounters(r, "tls_handshake_failures_total", "Total count of TLS handshakes between sidecars that failed, by reason."),
	}
	for _, d := range []flow.Direction{flow.Inbound, flow.Outbound} {
		m.httpErrors[d] = NewCounters(r, d.String()+"_http_errors_total", "Total count of HTTP requests that the sidecar answered with an error of its own, by kind of error.")
		m.Detections[d] = newDetections(r, d.String()+"_tcp_detect_http_")
		m.tcpErrors[d] = NewCounters(r, d.String()+"_tcp_errors_total", "Total count of TCP connections that the sidecar refused or broke, by kind of error.")
	}
	m.Routes = newRoutes(r)
	m.Served = newServed(r)
	m.Balancers = newBalancers(r, "outbound_http_balancer_", "requests", true)
	m.TCPBalancers = newBalancers(r, "outbound_tcp_balancer_", "connections", false)
	m.Connections = newConnections(r)
	m.Datagrams = newDatagrams(r)
	m.Identity = newIdentity(r)
	m.Control = newControl(r)
	r.Collect(build(release))
	r.Collect(newProcess(time.Now()).collect)
	return m
}

// HTTPError counts an error response of the sidecar's own. kind has few values.
func (m *Metrics) HTTPError(d flow.Direction, kind string) {
	m.httpErrors[d].Once(Label{"error", kind})
}

// TCPError counts a connection that the sidecar refused or broke.
func (m *Metrics) TCPError(d flow.Direction, kind string) {
	m.tcpErrors[d].Once(Label{"error", kind})
}

// HandshakeFailure counts a failed TLS handshake with another sidecar.
func (m *Metrics) HandshakeFailure(d flow.Direction, reason string) {
	m.handshakes.Once(Label{"direction", d.String()}, Label{"reason", reason})
}

func build(release string) func(*Writer) {
	return func(w *Writer) {
		w.Gauge("proxy_build_info", "Proxy build info.")
		w.Sample("proxy_build_info", 1, Label{"version", release})
	}
}

// Identity are the identity_cert_ families.
type Identity struct {
	expires, refreshed Gauge // Unix seconds
	ok, failed         Counter
}

func newIdentity(r *Registry) *Identity {
	i := &Identity{}
	r.Collect(func(w *Writer) {
		w.Gauge("identity_cert_expiration_timestamp_seconds", "Time when this proxy's current certificate expires (Unix seconds); 0 before the first.")
		w.Sample("identity_cert_expiration_timestamp_seconds", float64(i.expires.Value()))
		w.Gauge("identity_cert_refresh_timestamp_seconds", "Time when this proxy's certificate was last refreshed (Unix seconds).")
		w.Sample("identity_cert_refresh_timestamp_seconds", float64(i.refreshed.Value()))
		w.Counter("identity_cert_refreshes_total", "Total count of certificate refreshes, by result.")
		w.Sample("identity_cert_refreshes_total", float64(i.ok.Value()), Label{"result", "ok"})
		w.Sample("identity_cert_refreshes_total", float64(i.failed.Value()), Label{"result", "error"})
	})
	return i
}

// Refreshed says that a certificate was issued now.
func (i *Identity) Refreshed(now, expires time.Time) {
	i.refreshed.Set(now.Unix())
	i.expires.Set(expires.Unix())
	i.ok.Inc()
}

// Failed says that issuing one failed.
func (i *Identity) Failed() { i.failed.Inc() }

// Control are the control_ families: requests and responses by call, whether
// there is a connection, and what of its messages was refused.
type Control struct {
	requests  *Requests
	connected Gauge
	refused   Counter
}

func newControl(r *Registry) *Control {
	c := &Control{requests: NewRequests(r, "control_")}
	r.Collect(func(w *Writer) {
		w.Gauge("control_connected", "Whether there is an authenticated connection to the control plane (1) or not (0).")
		w.Sample("control_connected", float64(c.connected.Value()))
		w.Counter("control_updates_refused_total", "Total count of the control plane's updates that were malformed; the last good one stayed.")
		w.Sample("control_updates_refused_total", float64(c.refused.Value()))
	})
	return c
}

// Connected says whether there is a connection to the control plane.
func (c *Control) Connected(yes bool) {
	if yes {
		c.connected.Set(1)
		return
	}
	c.connected.Set(0)
}

// Refused says that an update was malformed.
func (c *Control) Refused() { c.refused.Inc() }

// Call is a handle for calls of one method, always over TLS, to a server at addr
// that proved to be serverID.
func (c *Control) Call(addr, serverID, method string) HTTP {
	return c.requests.handle(Label{"addr", addr}, Label{"tls", "true"}, Label{"server_id", serverID}, Label{"rpc", method})
}
