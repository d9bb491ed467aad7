// Package console is the page that people look at a mesh with: it owns the
// assets that control/console/web is built into, and how they are handed out. It
// refuses to know what the page asks (control/extension) and who may (whoever
// serves it).
//
// The assets are no part of the repository: `make console` builds them with npm.
// A program that was built without them answers with a page that says so.
package console

import (
	"bytes"
	"compress/gzip"
	"embed"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"time"
)

// Index is the name of the page itself; all others are what it loads.
const Index = "index.html"

//go:embed all:dist
var dist embed.FS //nolint:gochecknoglobals // what the compiler fills in

// missing is told where the page would be.
const missing = `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Tunmesh</title>
<h1>The console was not built</h1>
<p>This control plane was built without Node.js, so it has no console. Build it on a machine with Node 20.19 or newer
(<code>make console build</code>), or use a release. <code>meshctl stat</code>, <code>tap</code>, <code>edges</code> and <code>check</code> show the same.</p>
</html>
`

// asset is a file as it is kept: compressed, unless that gains nothing.
type asset struct {
	content     []byte
	gzipped     bool
	contentType string
	forever     bool // its name changes with what it contains
}

// Handler hands out the page's files by name.
type Handler struct {
	assets map[string]asset
	built  bool
}

// New returns the handler of the assets that this program was built with.
func New() (*Handler, error) {
	sub, err := fs.Sub(dist, "dist")
	if err != nil {
		return nil, fmt.Errorf("read the console's assets: %w", err)
	}
	return From(sub)
}

// From returns a handler of the files in a folder. Names that end in .gz are
// compressed already; folders and hidden files are left out.
func From(folder fs.FS) (*Handler, error) {
	h := &Handler{assets: map[string]asset{}}
	files, err := fs.ReadDir(folder, ".")
	if err != nil {
		return nil, fmt.Errorf("read the console's assets: %w", err)
	}
	for _, f := range files {
		if f.IsDir() || strings.HasPrefix(f.Name(), ".") {
			continue
		}
		raw, err := fs.ReadFile(folder, f.Name())
		if err != nil {
			return nil, fmt.Errorf("read the console's assets: %w", err)
		}
		name, gzipped := strings.CutSuffix(f.Name(), ".gz")
		h.assets[name] = asset{content: raw, gzipped: gzipped, contentType: typeOf(name), forever: name != Index && path.Ext(name) != ".txt"}
	}
	if _, h.built = h.assets[Index]; !h.built {
		h.assets[Index] = asset{content: []byte(missing), contentType: typeOf(Index)}
	}
	return h, nil
}

// Built reports whether there is a page.
func (h *Handler) Built() bool { return h.built }

// typeOf does not ask the machine's own tables: they differ.
func typeOf(name string) string {
	switch ext := path.Ext(name); ext {
	case ".html":
		return "text/html; charset=utf-8"
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	case ".txt":
		return "text/plain; charset=utf-8"
	default:
		if t := mime.TypeByExtension(ext); t != "" {
			return t
		}
		return "application/octet-stream"
	}
}

// Serve answers with the file of that name.
func (h *Handler) Serve(w http.ResponseWriter, r *http.Request, name string) {
	a, ok := h.assets[name]
	if !ok {
		http.Error(w, "there is no such file of the console: reload the page", http.StatusNotFound)
		return
	}
	head := w.Header()
	head.Set("Content-Type", a.contentType)
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Content-Security-Policy", Policy)
	if a.forever {
		head.Set("Cache-Control", "private, max-age=31536000, immutable")
	} else {
		head.Set("Cache-Control", "no-cache")
	}
	content := a.content
	if a.gzipped {
		head.Set("Vary", "Accept-Encoding")
		if acceptsGzip(r.Header.Get("Accept-Encoding")) {
			head.Set("Content-Encoding", "gzip")
		} else {
			plain, err := gunzip(content)
			if err != nil {
				http.Error(w, "the console's file "+name+" is damaged: install this program again", http.StatusInternalServerError)
				return
			}
			content = plain
		}
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
}

// Policy lets the page load what it came with and ask where it came from, and
// nothing else: no script in the page, no form, no frame, no other host.
const Policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; " +
	"worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

func acceptsGzip(header string) bool {
	for part := range strings.SplitSeq(header, ",") {
		coding, q, _ := strings.Cut(strings.TrimSpace(part), ";")
		if strings.EqualFold(strings.TrimSpace(coding), "gzip") && strings.TrimSpace(q) != "q=0" {
			return true
		}
	}
	return false
}

func gunzip(raw []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}
