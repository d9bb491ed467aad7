package exchange_test

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// strictRequest is a request as a parser reads it that takes RFC 9112 by the
// letter, knows nothing of this module, and refuses whatever else. It is the
// judge of what sidecars let through.
type strictRequest struct {
	method, target, version string
	fields                  []strictField
	body                    string
	trailers                []strictField
}

type strictField struct{ name, value string }

// errShort: the bytes end inside the request.
var errShort = errors.New("not whole")

// readStrict takes one request off b and returns how long it is.
func readStrict(b string) (r strictRequest, n int, err error) {
	line, n, err := strictLine(b)
	if err != nil {
		return r, 0, err
	}
	parts := strings.Split(line, " ")
	if len(parts) != 3 {
		return r, 0, fmt.Errorf("request line %q", line)
	}
	r.method, r.target, r.version = parts[0], parts[1], parts[2]
	minor, isHTTP1 := strings.CutPrefix(r.version, "HTTP/1.")
	if !isToken(r.method) || r.target == "" || !isHTTP1 || len(minor) != 1 || minor[0] < '0' || minor[0] > '9' {
		return r, 0, fmt.Errorf("request line %q", line)
	}
	for i := range len(r.target) {
		if c := r.target[i]; c <= ' ' || c == 0x7f || c == '#' {
			return r, 0, fmt.Errorf("target %q", r.target)
		}
	}
	if !strictTarget(r.method, r.target) {
		return r, 0, fmt.Errorf("target %q of %s", r.target, r.method)
	}
	if r.fields, n, err = strictFields(b, n); err != nil {
		return r, 0, err
	}
	hosts, length, chunked, err := r.framing()
	switch {
	case err != nil:
		return r, 0, err
	case hosts > 1 || hosts == 0 && minor != "0":
		return r, 0, fmt.Errorf("%d Host fields", hosts)
	case chunked && minor == "0":
		return r, 0, errors.New("chunks in HTTP/1.0")
	case chunked:
		n, err = r.chunks(b, n)
		return r, n, err
	case length > int64(len(b)-n):
		return r, 0, errShort
	}
	r.body = b[n : n+int(length)]
	return r, n + int(length), nil
}

// strictTarget is RFC 9112, section 3.2.
func strictTarget(method, target string) bool {
	scheme, rest, absolute := strings.Cut(target, "://")
	switch {
	case method == "CONNECT":
		return strings.Contains(target, ":") && !strings.Contains(target, "/")
	case target[0] == '/':
		return true
	case target == "*":
		return method == "OPTIONS"
	}
	host := strings.FieldsFunc(rest, func(c rune) bool { return c == '/' || c == '?' })
	return absolute && (strings.EqualFold(scheme, "http") || strings.EqualFold(scheme, "https")) &&
		len(host) > 0 && strings.HasPrefix(rest, host[0]) && !strings.Contains(host[0], "@")
}

// framing is RFC 9112, section 6.
func (r *strictRequest) framing() (hosts int, length int64, chunked bool, err error) {
	lengths, codings := 0, 0
	for _, f := range r.fields {
		switch strings.ToLower(f.name) {
		case "host":
			hosts++
		case "content-length":
			lengths++
			if f.value == "" || strings.Trim(f.value, "0123456789") != "" {
				return 0, 0, false, fmt.Errorf("length %q", f.value)
			}
			if length, err = strconv.ParseInt(f.value, 10, 64); err != nil {
				return 0, 0, false, err
			}
		case "transfer-encoding":
			codings++
			if !strings.EqualFold(f.value, "chunked") {
				return 0, 0, false, fmt.Errorf("coding %q", f.value)
			}
		}
	}
	if lengths+codings > 1 {
		return 0, 0, false, fmt.Errorf("%d lengths and %d codings", lengths, codings)
	}
	return hosts, length, codings == 1, nil
}

// chunks is RFC 9112, section 7.1.
func (r *strictRequest) chunks(b string, n int) (int, error) {
	for {
		line, k, err := strictLine(b[n:])
		if err != nil {
			return 0, err
		}
		n += k
		digits, extension, _ := strings.Cut(line, ";")
		if extension != "" {
			digits = strings.TrimRight(digits, " \t")
		}
		size, err := strconv.ParseUint(digits, 16, 62)
		if err != nil || strings.ContainsAny(digits, "_xX+") {
			return 0, fmt.Errorf("chunk %q", line)
		}
		if size == 0 {
			r.trailers, n, err = strictFields(b, n)
			return n, err
		}
		if uint64(len(b)-n) < size+2 {
			return 0, errShort
		}
		if b[n+int(size):n+int(size)+2] != "\r\n" {
			return 0, errors.New("chunk without an end")
		}
		r.body += b[n : n+int(size)]
		n += int(size) + 2
	}
}

// strictFields reads lines from b[n:] up to the empty one.
func strictFields(b string, n int) (fields []strictField, end int, err error) {
	for {
		line, k, err := strictLine(b[n:])
		if err != nil {
			return nil, 0, err
		}
		n += k
		if line == "" {
			return fields, n, nil
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || !isToken(name) {
			return nil, 0, fmt.Errorf("field line %q", line)
		}
		fields = append(fields, strictField{name, strings.Trim(value, " \t")})
	}
}

// strictLine ends with CR LF and holds neither, nor NUL nor another control
// character but a tab.
func strictLine(b string) (string, int, error) {
	for i := range len(b) {
		switch c := b[i]; {
		case c == '\r' && i+1 == len(b):
			return "", 0, errShort
		case c == '\r' && b[i+1] == '\n':
			return b[:i], i + 2, nil
		case c < ' ' && c != '\t', c == 0x7f:
			return "", 0, fmt.Errorf("byte %#x in a line", c)
		}
	}
	return "", 0, errShort
}

func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z') && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}
