// Package dashboard carries a browser's requests to the mesh with the rights of
// who typed `meshctl dashboard`. It owns who is let in (one browser, by a link
// that works once), what is carried on (what the aggregated API reads, the Events of
// a workload, and nothing that changes anything), and what of a request and its answer. It refuses
// to know what the page looks like: the mesh hands it out (control/console).
//
//	browser ──► 127.0.0.1:PORT ──► API server ──► mesh-view
//	                          └──► view.sock of a local mesh
package dashboard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/render"
	"github.com/tunmesh/tunmesh/control/console"
	"github.com/tunmesh/tunmesh/control/extension"
)

// Own paths; all others below Base are the mesh's.
const (
	sessionPath = "/dashboard/session"
	checkPath   = "/dashboard/check"
	assets      = "/assets/"
)

const (
	// checkWithin bounds a run of the checks.
	checkWithin = time.Minute
	maxBody     = 64 << 10
)

// Session is what the page is told of whom it asks.
type Session struct {
	Version   string `json:"version"`   // of meshctl
	Mesh      string `json:"mesh"`      // for people: the API server, or the local mesh
	Local     bool   `json:"local"`     // no cluster
	Namespace string `json:"namespace"` // of the kubeconfig's context
	Command   string `json:"command"`   // how a command that shows the same begins
}

// Config says what a Server needs; all is required.
type Config struct {
	Target    *url.URL          // where the API server is
	Transport http.RoundTripper // with the person's credentials
	Session   Session
	// Check runs `meshctl check` once. It must return when its context ends.
	Check func(context.Context) ([]render.CheckCategory, error)
}

// Server is the dashboard.
type Server struct {
	cfg   Config
	door  *door
	base  string // of its own address
	proxy *httputil.ReverseProxy
	turn  chan struct{} // of the checks
}

// New returns a server that will be reached at an address of the loopback.
func New(cfg Config, at *net.TCPAddr) (*Server, error) {
	if cfg.Target == nil || cfg.Transport == nil || cfg.Check == nil {
		return nil, errors.New("new dashboard: target, transport and check are needed")
	}
	if !at.IP.IsLoopback() {
		return nil, fmt.Errorf("new dashboard: %s is not of this machine alone", at)
	}
	s := &Server{cfg: cfg, door: newDoor(at.Port), base: "http://" + at.String() + "/", turn: make(chan struct{}, 1)}
	s.proxy = &httputil.ReverseProxy{
		Transport: cfg.Transport, Rewrite: s.rewrite, ModifyResponse: s.answered, ErrorHandler: s.failed,
		FlushInterval: -1, // a tap's events are seen as they come
		ErrorLog:      log.New(io.Discard, "", 0),
	}
	return s, nil
}

// Link is the address that lets a browser in, once.
func (s *Server) Link() string { return s.base + "?" + s.door.link() }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	secure(w.Header())
	if why := s.door.check(r); why != nil {
		s.refuse(w, r, why)
		return
	}
	if r.URL.Path == "/" && r.URL.Query().Has(tokenParam) {
		if !s.door.known(r) && !s.door.enter(w, r.URL.Query().Get(tokenParam)) {
			s.refuse(w, r, &refusal{http.StatusForbidden, "this link was used already, or is not of this dashboard: run meshctl dashboard again for a new one"})
			return
		}
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	if !s.door.known(r) {
		s.refuse(w, r, &refusal{http.StatusUnauthorized, "this browser was not let in: open the link that meshctl dashboard printed, or run it again for a new one"})
		return
	}
	s.serve(w, r)
}

// serve answers somebody who was let in.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	p := r.URL.Path
	if p != path.Clean(p) {
		s.refuse(w, r, &refusal{http.StatusBadRequest, "no such path"})
		return
	}
	switch {
	case s.carries(r.Method, p):
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		s.proxy.ServeHTTP(w, r)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		s.refuse(w, r, &refusal{http.StatusMethodNotAllowed, "the dashboard only reads"})
	case p == sessionPath:
		writeJSON(w, s.cfg.Session)
	case p == checkPath:
		s.check(w, r)
	case p == eventsPath:
		s.events(w, r)
	case strings.HasPrefix(p, "/apis/"), strings.HasPrefix(p, "/api/"):
		s.refuse(w, r, &refusal{http.StatusNotFound, "the dashboard carries on what is of the mesh, and nothing else"})
	case strings.HasPrefix(p, assets) && !strings.Contains(p[len(assets):], "/"):
		s.file(w, r, p[len(assets):])
	default: // the page itself finds out what a path means
		s.file(w, r, console.Index)
	}
}

// carries says which requests are carried to the mesh: those that read.
func (s *Server) carries(method, p string) bool {
	rest, ours := strings.CutPrefix(p, extension.Base+"/")
	if !ours {
		return false
	}
	if method == http.MethodPost {
		return strings.HasPrefix(rest, "watch/") && strings.HasSuffix(rest, "/tap") || path.Base(rest) == "why"
	}
	// A capture is whole packets: it is for a file, and never for a browser.
	return method == http.MethodGet && !strings.HasSuffix(rest, "/pcap")
}

// file hands out one of the page's files.
func (s *Server) file(w http.ResponseWriter, r *http.Request, name string) {
	out := r.Clone(r.Context())
	out.Method = http.MethodGet
	out.URL = &url.URL{Path: extension.Base + "/console/" + name}
	s.proxy.ServeHTTP(w, out)
}

// rewrite makes the request that goes on: the path, and the few header fields
// that it needs. Nothing that a browser says can name another user or host.
func (s *Server) rewrite(r *httputil.ProxyRequest) {
	kept := http.Header{}
	for _, name := range []string{"Accept", "Accept-Encoding", "Content-Type"} {
		if v := r.In.Header.Get(name); v != "" {
			kept.Set(name, v)
		}
	}
	r.Out.Header = kept
	r.SetURL(s.cfg.Target)
	r.Out.Host = ""
}

// answered keeps of an answer what the page needs.
func (s *Server) answered(resp *http.Response) error {
	kept := http.Header{}
	for _, name := range []string{"Content-Type", "Content-Encoding", "Content-Length", "Cache-Control", "Retry-After", "Vary"} {
		if v := resp.Header.Get(name); v != "" {
			kept.Set(name, v)
		}
	}
	if kept.Get("Cache-Control") == "" {
		kept.Set("Cache-Control", "no-store")
	}
	resp.Header = kept
	return nil
}

// failed tells that the mesh could not be asked.
func (s *Server) failed(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return
	}
	s.refuse(w, r, &refusal{http.StatusBadGateway, fmt.Sprintf("%s does not answer: %v", s.cfg.Session.Mesh, err)})
}

// check runs the checks, one run at a time: whoever finds one in progress waits.
func (s *Server) check(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), checkWithin)
	defer cancel()
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		s.refuse(w, r, &refusal{http.StatusServiceUnavailable, "the checks of another page are running: try again"})
		return
	}
	cats, err := s.cfg.Check(ctx)
	if err != nil {
		s.refuse(w, r, &refusal{http.StatusBadGateway, err.Error()})
		return
	}
	writeJSON(w, map[string]any{"success": render.Passed(cats), "categories": cats})
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(v) // whoever asked may have left
}

// secure says what browsers may do with an answer.
func secure(h http.Header) {
	h.Set("Content-Security-Policy", console.Policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
}

// refuse answers a program with JSON as the API server does, a person with a page.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, why *refusal) {
	w.Header().Set("Cache-Control", "no-store")
	if strings.Contains(r.Header.Get("Accept"), "text/html") {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(why.code)
		again := ""
		if why.code == http.StatusBadGateway {
			again = `<meta http-equiv="refresh" content="5">`
		}
		_, _ = fmt.Fprintf(w, "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">%s<title>Tunmesh</title><h1>Tunmesh</h1><p>%s</p></html>\n",
			again, html.EscapeString(why.text))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(why.code)
	_ = json.NewEncoder(w).Encode(map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": why.code, "message": why.text})
}
