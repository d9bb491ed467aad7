package eyes

import (
	"context"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"
)

// Browser is a browser before a meshctl dashboard that runs.
type Browser struct {
	http.Client
	t    *testing.T
	link *url.URL
}

// Dashboard runs meshctl dashboard, with more flags, until the test ends, and opens
// its link.
func (s Shell) Dashboard(t *testing.T, flags string) *Browser {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	cmd := s(ctx, "exec meshctl dashboard --show url "+flags)
	cmd.WaitDelay = 5 * time.Second
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	printed := make(chan struct{})
	var once func()
	once = func() { close(printed); once = func() {} }
	out := &answer{enough: func(text string) bool { return strings.HasSuffix(text, "\n") }, then: func() { once() }}
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	select {
	case <-printed:
	case err := <-ended:
		ended <- err
		t.Fatalf("meshctl dashboard %s: %v", flags, err)
	case <-time.After(patience):
		t.Fatalf("meshctl dashboard %s prints no link", flags)
	}
	link, err := url.Parse(strings.TrimSpace(out.String()))
	if err != nil || link.Query().Get("token") == "" {
		t.Fatalf("%q: %v", out.String(), err)
	}
	jar, _ := cookiejar.New(nil) // never fails
	b := &Browser{Client: http.Client{Jar: jar, Timeout: time.Minute}, t: t, link: link}
	if code, text := b.Get("GET", link.RequestURI()); code != http.StatusOK || !strings.Contains(text, "<html") {
		t.Fatalf("the link: %d %s", code, text)
	}
	return b
}

// Get makes a request with more header fields, Host among them, and returns status
// and body.
func (b *Browser) Get(method, path string, fields ...string) (int, string) {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), method, "http://"+b.link.Host+path, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	for i := 0; i < len(fields); i += 2 {
		r.Header.Set(fields[i], fields[i+1])
	}
	if h := r.Header.Get("Host"); h != "" {
		r.Host = h
	}
	resp, err := b.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// Origin is the page's own.
func (b *Browser) Origin() string { return "http://" + b.link.Host }

// API is where the console's questions begin.
const API = "/apis/view.tunmesh.io/v1alpha1"

// Empty makes sure that the page of a mesh without meshed pods is told so, and not
// that something is wrong.
func (b *Browser) Empty() {
	b.t.Helper()
	if code, text := b.Get("GET", API+"/namespaces/-/deployments/-/edges"); code != http.StatusOK || !strings.Contains(text, `"edges"`) || strings.Contains(text, `"src"`) {
		b.t.Errorf("edges: %d %s", code, text)
	}
}

// Guarded makes sure that the running dashboard answers this browser, and nobody who
// comes by another name, from another page, or with the token that was used.
func (b *Browser) Guarded() {
	b.t.Helper()
	const stat = API + "/namespaces/emojivoto/deployments/web/stat"
	for name, c := range map[string]struct {
		path   string
		fields []string
		code   int
		says   string
	}{
		"its own page":         {stat, nil, http.StatusOK, `"web"`},
		"its own Origin":       {stat, []string{"Origin", b.Origin()}, http.StatusOK, `"web"`},
		"another Host":         {stat, []string{"Host", "evil.example:" + b.link.Port()}, http.StatusMisdirectedRequest, "is not this dashboard's"},
		"another Origin":       {stat, []string{"Origin", "http://evil.example"}, http.StatusForbidden, "may ask nothing here"},
		"another page's image": {stat, []string{"Sec-Fetch-Site", "cross-site"}, http.StatusForbidden, "may ask nothing here"},
		"a path of Kubernetes": {"/api/v1/namespaces/kube-system/secrets", nil, http.StatusNotFound, ""},
	} {
		if code, text := b.Get("GET", c.path, c.fields...); code != c.code || !strings.Contains(text, c.says) {
			b.t.Errorf("%s: %d %s", name, code, text)
		}
	}
	b.Jar = nil // another browser
	if code, text := b.Get("GET", stat); code != http.StatusUnauthorized {
		b.t.Errorf("without a session: %d %s", code, text)
	}
	if code, text := b.Get("GET", b.link.RequestURI(), "Accept", "text/html"); code != http.StatusForbidden || !strings.Contains(text, "run meshctl dashboard again") {
		b.t.Errorf("the used link: %d %s", code, text)
	}
}
