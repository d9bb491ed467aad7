package render

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Obfuscate is a page of metrics, as sidecars show it, for others' eyes: the values of
// labels that name somebody are the beginnings of their hashes, as in Linkerd's pages.
// Who is the same on two pages stays the same.
func Obfuscate(page []byte) ([]byte, error) {
	var out bytes.Buffer
	out.Grow(len(page))
	n := 0
	for line := range bytes.Lines(page) {
		n++
		head, labels, ok := bytes.Cut(line, []byte("{"))
		if line[0] == '#' || !ok {
			out.Write(line)
			continue
		}
		out.Write(head)
		out.WriteByte('{')
		rest, err := obfuscated(&out, labels)
		if err != nil {
			return nil, fmt.Errorf("line %d of the metrics: %w", n, err)
		}
		out.Write(rest)
	}
	return out.Bytes(), nil
}

// obfuscated writes labels up to their closing brace, and returns what begins with that.
func obfuscated(out *bytes.Buffer, labels []byte) (rest []byte, err error) {
	for {
		if len(labels) > 0 && labels[0] == '}' {
			return labels, nil
		}
		at := bytes.Index(labels, []byte(`="`))
		if at < 0 {
			return nil, errors.New("a label without a value")
		}
		begin := at + len(`="`)
		size := quoted(labels[begin:])
		if size < 0 {
			return nil, errors.New("a label's value without an end")
		}
		value := labels[begin : begin+size]
		out.Write(labels[:begin])
		if names(strings.TrimLeft(string(labels[:at]), ", ")) && size > 0 {
			sum := sha256.Sum256([]byte(strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\n`, "\n").Replace(string(value))))
			fmt.Fprintf(out, "%x", sum[:4])
		} else {
			out.Write(value)
		}
		out.WriteByte('"')
		labels = labels[begin+size+1:]
	}
}

// quoted is how long a text is before the quote that ends it; below 0: none does.
func quoted(b []byte) int {
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i
		}
	}
	return -1
}

// names reports whether a label's values name somebody.
func names(label string) bool {
	for _, end := range []string{"src_", "dst_"} {
		if strings.HasPrefix(label, end) {
			return true
		}
	}
	return slices.Contains([]string{
		"authority", "hostname", "client_id", "server_id", "target_addr", "target_ip", "addr", "srv_name", "route_name", "authz_name",
		"parent_name", "parent_namespace", "route_namespace", "backend_name", "backend_namespace", "name",
	}, label)
}
