package render

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// table aligns cells: the first `left` columns to the left, the rest right.
type table struct {
	left int
	sep  int // spaces between columns; 0: three
	fit  int // the width that it should not exceed; 0: any
	// least are widths of the first columns that other tables, printed below one
	// another, have as well.
	least []int
	// trail ends each row as if another column followed.
	trail bool
	rows  [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) widths() []int {
	widths := slices.Clone(t.least)
	for _, r := range t.rows {
		for i, c := range r {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	return widths
}

// gap is how many spaces there is room for between columns.
func (t *table) gap() int {
	gap := t.sep
	if gap == 0 {
		gap = 3
	}
	widths := t.widths()
	for gap > 1 && t.fit > 0 && sum(widths)+gap*(len(widths)-1) > t.fit {
		gap--
	}
	return gap
}

func sum(list []int) (n int) {
	for _, x := range list {
		n += x
	}
	return n
}

// minName is what names are shortened to at most.
const minName = 8

func (t *table) write(w io.Writer) error {
	gap, widths := t.gap(), t.widths()
	for t.fit > 0 && sum(widths)+gap*(len(widths)-1) > t.fit {
		widest := 0
		for i := range min(t.left, len(widths)) {
			if widths[i] > widths[widest] {
				widest = i
			}
		}
		if widths[widest] <= minName {
			break
		}
		widths[widest]--
	}
	var b strings.Builder
	for _, r := range t.rows {
		for i, c := range r {
			if i > 0 {
				b.WriteString(strings.Repeat(" ", gap))
			}
			c = shorten(c, widths[i])
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
			if i < t.left {
				b.WriteString(c + pad)
			} else {
				b.WriteString(pad + c)
			}
		}
		if t.trail {
			b.WriteString(strings.Repeat(" ", gap))
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// shorten takes the middle out of what is too long: names differ at their ends.
func shorten(s string, width int) string {
	r := []rune(s)
	if len(r) <= width || width < 3 {
		return s
	}
	tail := (width - 1) / 2
	return string(r[:width-1-tail]) + "…" + string(r[len(r)-tail:])
}

// Table prints rows, the first of them the head, every column to the left.
func Table(w io.Writer, rows [][]string) error {
	if len(rows) == 0 {
		return nil
	}
	var b strings.Builder
	t := table{left: len(rows[0]), rows: rows}
	if err := t.write(&b); err != nil {
		return err
	}
	for line := range strings.Lines(b.String()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}
