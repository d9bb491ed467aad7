package console

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"
)

func zipped(t *testing.T, s string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := io.WriteString(z, s); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestServe(t *testing.T) {
	h, err := From(fstest.MapFS{
		"index.html":     {Data: []byte("<p>page")},
		"app-1x.js.gz":   {Data: zipped(t, "let a")},
		"broken.css.gz":  {Data: []byte("no gzip")},
		".keep":          {Data: []byte("hidden")},
		"notices.txt.gz": {Data: zipped(t, "MIT")},
	})
	if err != nil || !h.Built() {
		t.Fatal(err, h.Built())
	}
	for _, c := range []struct {
		name, accept string
		code         int
		body, coding string
		cache        string
	}{
		{"index.html", "gzip", 200, "<p>page", "", "no-cache"},
		{"app-1x.js", "br, gzip", 200, "let a", "gzip", "private, max-age=31536000, immutable"},
		{"app-1x.js", "", 200, "let a", "", "private, max-age=31536000, immutable"},
		{"app-1x.js", "gzip;q=0", 200, "let a", "", "private, max-age=31536000, immutable"},
		{"notices.txt", "", 200, "MIT", "", "no-cache"},
		{"broken.css", "", 500, "damaged", "", ""},
		{".keep", "", 404, "no such file", "", ""},
		{"../console.go", "", 404, "no such file", "", ""},
		{"app-1x.js.gz", "", 404, "no such file", "", ""},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Accept-Encoding", c.accept)
		w := httptest.NewRecorder()
		h.Serve(w, r, c.name)
		body := w.Body.Bytes()
		if w.Header().Get("Content-Encoding") == "gzip" {
			if body, err = gunzip(body); err != nil {
				t.Fatal(err)
			}
		}
		if w.Code != c.code || !strings.Contains(string(body), c.body) || w.Header().Get("Content-Encoding") != c.coding {
			t.Errorf("%s (%s): %d %q %v", c.name, c.accept, w.Code, body, w.Header())
		}
		if c.cache != "" && (w.Header().Get("Cache-Control") != c.cache || w.Header().Get("Content-Security-Policy") != Policy || w.Header().Get("X-Content-Type-Options") != "nosniff") {
			t.Errorf("%s: %v", c.name, w.Header())
		}
	}
}

// TestNotBuilt: without the assets the page says so.
func TestNotBuilt(t *testing.T) {
	h, err := From(fstest.MapFS{".keep": {}})
	if err != nil || h.Built() {
		t.Fatal(err, h.Built())
	}
	w := httptest.NewRecorder()
	h.Serve(w, httptest.NewRequest("GET", "/", nil), Index)
	if w.Code != 200 || !strings.Contains(w.Body.String(), "make console") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestEmbedded: what this program was built with can be handed out, whole.
func TestEmbedded(t *testing.T) {
	h, err := New()
	if err != nil {
		t.Fatal(err)
	}
	for name := range h.assets {
		w := httptest.NewRecorder()
		h.Serve(w, httptest.NewRequest("GET", "/", nil), name)
		if w.Code != 200 || w.Body.Len() == 0 {
			t.Errorf("%s: %d, %d bytes", name, w.Code, w.Body.Len())
		}
	}
	if _, ok := h.assets["notices.txt"]; h.Built() && !ok {
		t.Error("the notices of others' software are missing")
	}
}
