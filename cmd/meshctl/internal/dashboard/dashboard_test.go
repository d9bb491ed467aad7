package dashboard

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/render"
	"github.com/tunmesh/tunmesh/control/console"
	"github.com/tunmesh/tunmesh/control/extension"
)

// rig is a dashboard before an API server that notes what it is asked.
type rig struct {
	t       *testing.T
	s       *Server
	host    string
	mu      sync.Mutex
	asked   []string
	headers http.Header
	cookie  *http.Cookie
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, host: "127.0.0.1:7777"}
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.asked, r.headers = append(r.asked, req.Method+" "+req.URL.String()), req.Header
		r.mu.Unlock()
		w.Header().Set("Set-Cookie", "of=the-api-server")
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Content-Security-Policy", "default-src *")
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"kind":"Health"}`)
	}))
	t.Cleanup(up.Close)
	target, err := url.Parse(up.URL)
	if err != nil {
		t.Fatal(err)
	}
	r.s, err = New(Config{
		Target: target, Transport: http.DefaultTransport, Session: Session{Mesh: "a cluster", Namespace: "emojivoto"},
		Check: func(context.Context) ([]render.CheckCategory, error) {
			return []render.CheckCategory{{Name: "c", Checks: []render.CheckResult{{Description: "d", Result: render.CheckError, Error: "<b>"}}}}, nil
		},
	}, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7777})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// do sends a request as a browser that was let in, if it was.
func (r *rig) do(method, target string, headers ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, "http://"+r.host+target, strings.NewReader("{}"))
	if r.cookie != nil {
		req.AddCookie(r.cookie)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
			continue
		}
		req.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	r.s.ServeHTTP(w, req)
	return w
}

func (r *rig) enter() {
	r.t.Helper()
	w := r.do("GET", strings.TrimPrefix(r.s.Link(), "http://"+r.host))
	cookies := w.Result().Cookies()
	if w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/" || len(cookies) != 1 {
		r.t.Fatalf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	r.cookie = cookies[0]
	if c := r.cookie; !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" {
		r.t.Errorf("cookie %+v", c)
	}
}

func (r *rig) requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

const health = extension.Base + "/health"

// TestTokenOnce: the link lets in one browser, once.
func TestTokenOnce(t *testing.T) {
	r := newRig(t)
	link := strings.TrimPrefix(r.s.Link(), "http://"+r.host)
	for name, path := range map[string]string{"nothing": "/", "another token": "/?token=x", "no token": "/?token=", "the API": health, "a file": "/assets/a.js", "the checks": checkPath} {
		if w := r.do("GET", path); w.Code != 401 && w.Code != 403 {
			t.Errorf("%s: %d", name, w.Code)
		}
	}
	if got := r.requests(); len(got) > 0 {
		t.Fatalf("carried on: %v", got)
	}
	r.enter()
	if w := r.do("GET", health); w.Code != 200 || !strings.Contains(w.Body.String(), "Health") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := r.do("GET", link); w.Code != 303 {
		t.Errorf("the same browser again: %d", w.Code)
	}
	mine := r.cookie
	r.cookie = nil
	if w := r.do("GET", link, "Accept", "text/html"); w.Code != 403 || len(w.Result().Cookies()) > 0 || !strings.Contains(w.Body.String(), "run meshctl dashboard again") {
		t.Errorf("another browser, a used token: %d %s", w.Code, w.Body)
	}
	for _, value := range []string{"", mine.Value + "x", strings.ToUpper(mine.Value)} {
		r.cookie = &http.Cookie{Name: mine.Name, Value: value}
		if w := r.do("GET", health); w.Code != 401 {
			t.Errorf("cookie %q: %d", value, w.Code)
		}
	}
}

// TestForged: what other pages and other names can make a browser send is refused,
// cookie and all.
func TestForged(t *testing.T) {
	r := newRig(t)
	r.enter()
	before := len(r.requests())
	tap := extension.Base + "/watch/namespaces/a/deployments/b/tap"
	for _, c := range []struct {
		name, method, path string
		headers            []string
		code               int
	}{
		{"a name that resolves here", "GET", health, []string{"Host", "evil.example:7777"}, 421},
		{"another port", "GET", health, []string{"Host", "127.0.0.1:80"}, 421},
		{"no port", "GET", health, []string{"Host", "127.0.0.1"}, 421},
		{"a suffix", "GET", health, []string{"Host", "127.0.0.1:7777.evil.example"}, 421},
		{"no host", "GET", health, []string{"Host", ""}, 421},
		{"a page of another site", "GET", health, []string{"Origin", "http://evil.example"}, 403},
		{"a page of another port", "POST", tap, []string{"Origin", "http://127.0.0.1:8080"}, 403},
		{"https of this one", "POST", tap, []string{"Origin", "https://127.0.0.1:7777"}, 403},
		{"a sandboxed frame", "POST", tap, []string{"Origin", "null"}, 403},
		{"an image of another site", "GET", health, []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"an image of another port", "GET", health, []string{"Sec-Fetch-Site", "same-site"}, 403},
		{"a POST without Origin", "POST", tap, nil, 403},
	} {
		if w := r.do(c.method, c.path, c.headers...); w.Code != c.code {
			t.Errorf("%s: %d %s", c.name, w.Code, w.Body)
		}
	}
	if got := r.requests(); len(got) != before {
		t.Errorf("carried on: %v", got[before:])
	}
	for _, host := range []string{"127.0.0.1:7777", "localhost:7777"} {
		if w := r.do("POST", tap, "Host", host, "Origin", "http://"+host, "Sec-Fetch-Site", "same-origin"); w.Code != 200 {
			t.Errorf("our own page on %s: %d %s", host, w.Code, w.Body)
		}
	}
}

// TestCarries: what reads the mesh goes on, without what a browser adds; nothing
// else does.
func TestCarries(t *testing.T) {
	r := newRig(t)
	r.enter()
	own := []string{"Origin", "http://" + r.host, "Impersonate-User", "system:admin", "Authorization", "Bearer x", "X-Remote-User", "root", "Accept", "application/json", "X-Forwarded-For", "1.2.3.4"}
	base := extension.Base
	for _, c := range []struct {
		method, path string
		code         int
		asked        string
	}{
		{"GET", base + "/namespaces/-/deployments/-/stat?window=60", 200, "GET " + base + "/namespaces/-/deployments/-/stat?window=60"},
		{"GET", base + "/prometheus/api/v1/query?query=up", 200, "GET " + base + "/prometheus/api/v1/query?query=up"},
		{"POST", base + "/watch/namespaces/a/pods/b/tap", 200, "POST " + base + "/watch/namespaces/a/pods/b/tap"},
		{"POST", base + "/why", 200, "POST " + base + "/why"},
		{"GET", "/", 200, "GET " + base + "/console/index.html"},
		{"GET", "/graph?ns=a", 200, "GET " + base + "/console/index.html"},
		{"GET", "/assets/app-1.js", 200, "GET " + base + "/console/app-1.js"},
		{"POST", base + "/namespaces/-/deployments/-/stat", 405, ""},
		{"POST", base + "/prometheus/api/v1/query", 405, ""},
		{"DELETE", base + "/health", 405, ""},
		{"PUT", base + "/why", 405, ""},
		{"POST", base + "/watch/namespaces/a/pods/b/pcap", 405, ""},
		{"GET", base + "/watch/namespaces/a/pods/b/pcap", 404, ""},
		{"GET", "/api/v1/namespaces/kube-system/secrets", 404, ""},
		{"GET", "/apis/apps/v1/deployments", 404, ""},
		{"GET", base + "/../../../api/v1/secrets", 400, ""},
		{"GET", base + "//health", 400, ""},
		{"POST", "/api/v1/namespaces/a/pods", 405, ""},
	} {
		before := len(r.requests())
		w := r.do(c.method, c.path, own...)
		asked := ""
		if got := r.requests(); len(got) > before {
			asked = got[len(got)-1]
		}
		if w.Code != c.code || asked != c.asked {
			t.Errorf("%s %s: %d, asked %q: %s", c.method, c.path, w.Code, asked, w.Body)
		}
		h := w.Header()
		if h.Get("Content-Security-Policy") != console.Policy || h.Get("X-Frame-Options") != "DENY" || h.Get("Set-Cookie") != "" || h.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s %s: %v", c.method, c.path, h)
		}
	}
	for name := range r.headers {
		switch name {
		case "Accept", "Accept-Encoding", "Content-Type", "Content-Length", "User-Agent":
		default:
			t.Errorf("carried on: %s: %v", name, r.headers[name])
		}
	}
}

// TestOwn: what the dashboard itself tells.
func TestOwn(t *testing.T) {
	r := newRig(t)
	r.enter()
	if w := r.do("GET", sessionPath); w.Code != 200 || !strings.Contains(w.Body.String(), `"namespace":"emojivoto"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := r.do("GET", checkPath); w.Code != 200 || !strings.Contains(w.Body.String(), `"success":false`) || strings.Contains(w.Body.String(), "<b>") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if _, err := New(r.s.cfg, &net.TCPAddr{IP: net.IPv4zero, Port: 1}); err == nil {
		t.Error("it listens to everybody")
	}
}

type broken struct{}

func (broken) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("<script>refused</script>")
}

// TestDown: who can't be asked is named, and what an error says is text.
func TestDown(t *testing.T) {
	r := newRig(t)
	r.enter()
	r.s.proxy.Transport = broken{}
	if w := r.do("GET", health); w.Code != 502 || !strings.Contains(w.Body.String(), "a cluster does not answer") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := r.do("GET", "/", "Accept", "text/html"); w.Code != 502 || strings.Contains(w.Body.String(), "<script>") || !strings.Contains(w.Body.String(), "&lt;script&gt;") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
