package telemetry

import (
	"bytes"
	"io"
)

// A Page is all families as they are printed, a piece at a time: whoever makes
// one on a loop gives others their turn between pieces, and nobody holds the
// whole text. No lock is held between pieces, or while one is made.
type Page struct {
	r    *Registry
	t    text
	rest []printer
	now  section
	over bool
	zip  *zip // nil: not compressed
}

// Page begins a page.
func (r *Registry) Page(f Format) *Page {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sweep()
	p := &Page{r: r, rest: r.families[:len(r.families):len(r.families)]}
	p.t.open = f.OpenMetrics
	if f.Gzip {
		p.zip = newZip()
	}
	return p
}

// Next is the next piece, which is the caller's; nil after the last. Pieces that
// are not compressed are cut between lines.
func (p *Page) Next() []byte {
	for {
		piece := p.plain()
		switch {
		case p.zip == nil:
			return piece
		case piece == nil:
			return p.zip.end()
		}
		if z := p.zip.add(piece); len(z) > 0 {
			p.t.reuse(piece)
			return z
		}
		p.t.reuse(piece)
	}
}

func (p *Page) plain() []byte {
	for len(p.t.full) == 0 && !p.over {
		p.step()
	}
	return p.t.take()
}

// step prints a little.
func (p *Page) step() {
	if p.now == nil {
		if len(p.rest) == 0 {
			p.over = true
			p.t.end()
			return
		}
		p.r.mu.Lock()
		p.now, p.rest = p.rest[0].begin(), p.rest[1:]
		p.r.mu.Unlock()
	}
	if !p.now.step(&p.t) {
		p.now = nil
	}
}

// Text is a page in the plain text format, in one.
func (r *Registry) Text() []byte {
	var b bytes.Buffer
	_, _ = r.WriteTo(&b) // a Buffer takes all
	return b.Bytes()
}

// WriteTo writes a page in the plain text format. It implements io.WriterTo.
func (r *Registry) WriteTo(w io.Writer) (written int64, err error) {
	p := r.Page(Format{})
	for b := p.Next(); b != nil; b = p.Next() {
		n, err := w.Write(b)
		written += int64(n)
		if err != nil {
			return written, err
		}
	}
	return written, nil
}
