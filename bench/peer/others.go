package peer

import (
	"fmt"
	"os/exec"
	"path/filepath"

	"github.com/tunmesh/tunmesh/bench/load"
	"github.com/tunmesh/tunmesh/bench/pki"
	"github.com/tunmesh/tunmesh/bench/proc"
)

// program finds a program of a Debian package.
func program(name, what, debian string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/" + name); err != nil {
			return "", &MissingError{What: what, Install: "apt-get install --no-install-recommends " + debian}
		}
	}
	return path, nil
}

// fileData is what templates of configuration files are filled with.
type fileData struct {
	Client                  bool
	Dir, Target             string
	CA, Cert, Key, Both     string
	OwnName, OtherName      string
	Echo, Sink, HTTP, HTTP2 uint16 // where to listen
	ToEcho, ToSink          uint16
	ToHTTP, ToHTTP2         uint16
}

func (p *pair) data(s sidecar) fileData {
	d := fileData{
		Client: s.side == "client", Dir: p.dir, Target: "127.0.0.1", CA: filepath.Join(p.dir, pki.CA),
		Cert: filepath.Join(p.dir, s.side+".pem"), Key: filepath.Join(p.dir, s.side+".key"), Both: filepath.Join(p.dir, s.side+"-both.pem"),
		OwnName: pki.Name(s.side), OtherName: pki.Name("client"),
		Echo: EchoPort + s.plus, Sink: SinkPort + s.plus, HTTP: HTTP1Port + s.plus, HTTP2: HTTP2Port + s.plus,
		ToEcho: EchoPort, ToSink: SinkPort, ToHTTP: HTTP1Port, ToHTTP2: HTTP2Port,
	}
	if d.Client {
		d.Target, d.OtherName = p.addr.String(), pki.Name("server")
	}
	return d
}

// filed makes a peer of a program that reads a file.
func (e *Env) filed(name, path, config string, kinds []load.Kind, args func(file string) []string) (*Peer, error) {
	p, err := e.newPair(true)
	if err != nil {
		return nil, err
	}
	var procs []*proc.Process
	for _, s := range p.sides() {
		file, err := p.configure(name+"-"+s.side+".conf", config, p.data(s))
		if err != nil {
			return nil, err
		}
		r, err := p.run(s, kinds, path, args(file)...)
		if err != nil {
			return nil, fmt.Errorf("%s side: %w", s.side, err)
		}
		procs = append(procs, r)
	}
	q := p.peer(name, procs[0], procs[1])
	q.MTLS = true
	return q, nil
}

func (e *Env) haproxy() (*Peer, error) {
	path, err := program("haproxy", "HAProxy", "haproxy")
	if err != nil {
		return nil, err
	}
	q, err := e.filed("haproxy", path, haproxyConfig, []load.Kind{load.Echo, load.Sink, load.ServeH1, load.ServeH2}, func(file string) []string {
		return []string{"-db", "-f", file}
	})
	if err != nil {
		return nil, err
	}
	q.Version = version(`version (\S+)`, path, "-v")
	q.Setup = "nft redirect, nbthread 1, TLS 1.3, client certificates, HTTP/2 between them"
	return q, nil
}

// haproxyConfig: an empty reason phrase of HTTP/2 would be sent on to clients of
// HTTP/1.1, some of which read it as no status at all.
const haproxyConfig = `
global
  nbthread 1
  maxconn 4000
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-server-options ssl-min-ver TLSv1.3
  ssl-server-verify required
defaults
  timeout connect 5s
  timeout client 10m
  timeout server 10m
  maxconn 4000
{{define "tls-in"}}{{if not .Client}} ssl crt {{.Both}} ca-file {{.CA}} verify required{{end}}{{end}}
{{define "tls-out"}}{{if .Client}} ssl crt {{.Both}} ca-file {{.CA}} verify required verifyhost {{.OtherName}} sni str({{.OtherName}}){{end}}{{end}}
frontend echo
  mode tcp
  bind 0.0.0.0:{{.Echo}}{{template "tls-in" .}}
  default_backend echo
backend echo
  mode tcp
  server s {{.Target}}:{{.ToEcho}}{{template "tls-out" .}}
frontend sink
  mode tcp
  bind 0.0.0.0:{{.Sink}}{{template "tls-in" .}}
  default_backend sink
backend sink
  mode tcp
  server s {{.Target}}:{{.ToSink}}{{template "tls-out" .}}
frontend http
  mode http
  bind 0.0.0.0:{{.HTTP}}{{template "tls-in" .}}{{if not .Client}} alpn h2{{end}}
  http-response set-status 200 reason OK if { status 200 }
  default_backend http
backend http
  mode http
  http-reuse always
  server s {{.Target}}:{{.ToHTTP}}{{template "tls-out" .}}{{if .Client}} alpn h2{{end}}
frontend http2
  mode http
  bind 0.0.0.0:{{.HTTP2}}{{template "tls-in" .}}{{if .Client}} proto h2{{else}} alpn h2{{end}}
  default_backend http2
backend http2
  mode http
  http-reuse always
  server s {{.Target}}:{{.ToHTTP2}}{{template "tls-out" .}}{{if .Client}} alpn h2{{else}} proto h2{{end}}
`

func (e *Env) nginx() (*Peer, error) {
	path, err := program("nginx", "nginx", "nginx-light")
	if err != nil {
		return nil, err
	}
	q, err := e.filed("nginx", path, nginxConfig, []load.Kind{load.ServeH1}, func(file string) []string {
		return []string{"-e", "stderr", "-c", file}
	})
	if err != nil {
		return nil, err
	}
	q.Version = version(`nginx/(\S+)`, path, "-v")
	q.Setup = "nft redirect, one worker, TLS 1.3, client certificates, HTTP/1.1 kept alive between them"
	q.Cannot = map[load.Kind]string{
		load.ServeH2: "nginx speaks no HTTP/2 to upstreams",
		load.Echo:    "not configured for bytes",
		load.Sink:    "not configured for bytes",
	}
	return q, nil
}

const nginxConfig = `
daemon off;
worker_processes 1;
pid {{.Dir}}/nginx-{{if .Client}}client{{else}}server{{end}}.pid;
error_log stderr error;
worker_rlimit_nofile 12000;
events { worker_connections 10000; }
http {
  access_log off;
  client_body_temp_path {{.Dir}}/{{.OwnName}}-body;
  proxy_temp_path {{.Dir}}/{{.OwnName}}-proxy;
  fastcgi_temp_path {{.Dir}}/{{.OwnName}}-fastcgi;
  uwsgi_temp_path {{.Dir}}/{{.OwnName}}-uwsgi;
  scgi_temp_path {{.Dir}}/{{.OwnName}}-scgi;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  upstream next { server {{.Target}}:{{.ToHTTP}}; keepalive 2048; keepalive_requests 1000000000; keepalive_timeout 1h; }
  server {
    listen {{.HTTP}}{{if not .Client}} ssl{{end}} backlog=4096;
{{- if not .Client}}
    ssl_protocols TLSv1.3;
    ssl_certificate {{.Cert}};
    ssl_certificate_key {{.Key}};
    ssl_client_certificate {{.CA}};
    ssl_verify_client on;
{{- end}}
    location / {
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_pass {{if .Client}}https{{else}}http{{end}}://next;
{{- if .Client}}
      proxy_ssl_protocols TLSv1.3;
      proxy_ssl_certificate {{.Cert}};
      proxy_ssl_certificate_key {{.Key}};
      proxy_ssl_trusted_certificate {{.CA}};
      proxy_ssl_verify on;
      proxy_ssl_server_name on;
      proxy_ssl_name {{.OtherName}};
{{- end}}
    }
  }
}
`

func (e *Env) nghttpx() (*Peer, error) {
	path, err := program("nghttpx", "nghttpx", "nghttp2-proxy")
	if err != nil {
		return nil, err
	}
	q, err := e.filed("nghttpx", path, nghttpxConfig, []load.Kind{load.ServeH1, load.ServeH2}, func(file string) []string {
		return []string{"--conf=" + file}
	})
	if err != nil {
		return nil, err
	}
	q.Version = version(`nghttp2/(\S+)`, path, "--version")
	q.Setup = "nft redirect, one worker, TLS 1.3, client certificates, HTTP/2 between them"
	q.Cannot = map[load.Kind]string{load.Echo: "nghttpx carries HTTP only", load.Sink: "nghttpx carries HTTP only"}
	return q, nil
}

// nghttpxConfig: backends are told by path, so that HTTP/1.1 and HTTP/2 of the
// application are told apart by the host that the client asks for.
const nghttpxConfig = `
workers=1
no-ocsp=yes
errorlog-file=/dev/null
accesslog-file=/dev/null
backend-connections-per-host=2048
{{- if .Client}}
frontend=0.0.0.0,{{.HTTP}};no-tls
frontend=0.0.0.0,{{.HTTP2}};no-tls
backend={{.Target}},{{.ToHTTP}};/;proto=h2;tls;sni={{.OtherName}}
backend={{.Target}},{{.ToHTTP2}};http2.bench/;proto=h2;tls;sni={{.OtherName}}
cacert={{.CA}}
client-cert-file={{.Cert}}
client-private-key-file={{.Key}}
tls-min-proto-version=TLSv1.3
{{- else}}
frontend=0.0.0.0,{{.HTTP}};tls
frontend=0.0.0.0,{{.HTTP2}};tls
backend={{.Target}},{{.ToHTTP}};/
backend={{.Target}},{{.ToHTTP2}};http2.bench/;proto=h2
private-key-file={{.Key}}
certificate-file={{.Cert}}
verify-client=yes
verify-client-cacert={{.CA}}
tls-min-proto-version=TLSv1.3
{{- end}}
`
