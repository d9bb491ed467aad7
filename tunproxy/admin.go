package tunproxy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// admin answers on port 4191. It owns what may be asked and from where; the
// shells in admin_wire.go and admin_local.go own how the question arrives.
type admin struct {
	// ready says why the sidecar can't serve yet; nil: it can.
	ready    func() error
	metrics  func(io.Writer) error
	config   any // printed as JSON
	level    *slog.LevelVar
	shutdown func()
	draining *atomic.Bool
	// profile is held while a CPU profile is taken: there can be one at a time.
	profiling atomic.Bool
}

// question is a request to the admin port.
type question struct {
	Method, Path string // without query
	Query        string
	Body         []byte
	// Local: asked on the pod's loopback interface, not on the wire.
	Local bool
}

// reply is the answer.
type reply struct {
	Status int
	Type   string
	Body   []byte
}

func text(status int, format string, args ...any) reply {
	return reply{Status: status, Type: "text/plain; charset=utf-8", Body: fmt.Appendf(nil, format+"\n", args...)}
}

// answer is the admin interface: three paths for everybody, the rest for those
// inside the pod.
func (a *admin) answer(q question) reply {
	switch q.Path {
	case "/live":
		return get(q, func() reply { return text(200, "live") })
	case "/ready":
		return get(q, a.readiness)
	case "/metrics":
		return get(q, a.scrape)
	}
	if !q.Local {
		return text(404, "not found here: the wire side serves /live, /ready and /metrics")
	}
	switch q.Path {
	case "/config":
		return get(q, a.printConfig)
	case "/log-level":
		return a.logLevel(q)
	case "/shutdown":
		if q.Method != "POST" {
			return text(405, "use POST")
		}
		a.shutdown()
		return text(200, "draining")
	}
	if name, ok := strings.CutPrefix(q.Path, "/debug/pprof/"); ok {
		return get(q, func() reply { return a.profile(name, q.Query) })
	}
	return text(404, "not found: try /live /ready /metrics /config /log-level /shutdown /debug/pprof/NAME")
}

func get(q question, f func() reply) reply {
	if q.Method != "GET" && q.Method != "HEAD" {
		return text(405, "use GET")
	}
	return f()
}

func (a *admin) readiness() reply {
	if a.draining.Load() {
		return text(503, "draining")
	}
	if err := a.ready(); err != nil {
		return text(503, "not ready: %v", err)
	}
	return text(200, "ready")
}

func (a *admin) scrape() reply {
	var b bytes.Buffer
	if err := a.metrics(&b); err != nil {
		return text(500, "write metrics: %v", err)
	}
	return reply{Status: 200, Type: "text/plain; version=0.0.4; charset=utf-8", Body: b.Bytes()}
}

func (a *admin) printConfig() reply {
	b, err := json.MarshalIndent(a.config, "", "  ")
	if err != nil {
		return text(500, "print configuration: %v", err)
	}
	return reply{Status: 200, Type: "application/json", Body: append(b, '\n')}
}

func (a *admin) logLevel(q question) reply {
	switch q.Method {
	case "GET", "HEAD":
		return text(200, "%s", strings.ToLower(a.level.Level().String()))
	case "PUT":
		var l slog.Level
		if err := l.UnmarshalText(bytes.TrimSpace(q.Body)); err != nil {
			return text(400, "set log level: %v; want debug, info, warn or error", err)
		}
		a.level.Set(l)
		return text(200, "%s", strings.ToLower(l.String()))
	}
	return text(405, "use GET or PUT")
}

// maxProfile bounds a CPU profile, in seconds.
const maxProfile = 60

// profile is what `go tool pprof` asks for.
func (a *admin) profile(name, query string) reply {
	var b bytes.Buffer
	if name == "profile" {
		seconds := 10
		if v, ok := strings.CutPrefix(query, "seconds="); ok {
			n, err := strconv.Atoi(v)
			if err != nil || n < 1 || n > maxProfile {
				return text(400, "seconds: want 1 to %d", maxProfile)
			}
			seconds = n
		}
		if !a.profiling.CompareAndSwap(false, true) {
			return text(409, "a profile is being taken")
		}
		defer a.profiling.Store(false)
		if err := pprof.StartCPUProfile(&b); err != nil {
			return text(500, "start profile: %v", err)
		}
		time.Sleep(time.Duration(seconds) * time.Second) // the local shell's goroutine, never a loop's
		pprof.StopCPUProfile()
		return reply{Status: 200, Type: "application/octet-stream", Body: b.Bytes()}
	}
	p := pprof.Lookup(name)
	if p == nil {
		return text(404, "no profile %q: try profile, heap, allocs, goroutine, threadcreate", name)
	}
	verbose := 0
	if n, ok := strings.CutPrefix(query, "debug="); ok {
		verbose, _ = strconv.Atoi(n)
	}
	if err := p.WriteTo(&b, verbose); err != nil {
		return text(500, "write profile: %v", err)
	}
	return reply{Status: 200, Type: "application/octet-stream", Body: b.Bytes()}
}

// statusText is the phrase of the statuses used here.
func statusText(status int) string {
	switch status {
	case 200:
		return "OK"
	case 400:
		return "Bad Request"
	case 404:
		return "Not Found"
	case 405:
		return "Method Not Allowed"
	case 409:
		return "Conflict"
	case 503:
		return "Service Unavailable"
	}
	return "Internal Server Error"
}
