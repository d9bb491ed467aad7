package orig

import "github.com/tunmesh/tunmesh/tunproxy/message"

// dropConnection removes in place what belongs to one connection (RFC 9110,
// section 7.6.1): the fields known to, and those that Connection nominates; but what
// the message means can't be nominated away. Of TE
// only "trailers" is left, the one thing that it may say in HTTP/2 (RFC 9113,
// section 8.2.2). Host and Transfer-Encoding stay until their places are known.
func dropConnection(f []message.Field) []message.Field {
	var nominated [8]string
	n, more := 0, false
	for i := range f {
		if !message.EqualFold(f[i].Name, "connection") {
			continue
		}
		for rest := f[i].Value; rest != ""; {
			var token string
			token, rest = message.NextElement(rest)
			switch {
			case token == "" || of(token, "close", "keep-alive", "upgrade", "te", "host", "transfer-encoding", "content-length", "content-type"):
			case n < len(nominated):
				nominated[n] = token
				n++
			default:
				more = true // so many are nobody's honest wish: look each up below
			}
		}
	}
	te := false
	out := f[:0]
	var connections []message.Field
	if more {
		connections = append(connections, f...)
	}
	for i := range f {
		name := f[i].Name
		if of(name, "connection", "keep-alive", "proxy-connection", "upgrade", "http2-settings") {
			continue
		}
		if message.EqualFold(name, "te") {
			if !te && hasToken(f[i].Value, "trailers") {
				te = true
				out = append(out, message.Field{Name: name, Value: "trailers"})
			}
			continue
		}
		if of(name, nominated[:n]...) || more && nominates(connections, name) {
			continue
		}
		out = append(out, f[i])
	}
	return out
}

// dropPlaced removes in place the fields that HTTP/2 says otherwise or not at all,
// and of which the hop field tells where they were.
func dropPlaced(f []message.Field) []message.Field {
	out := f[:0]
	for i := range f {
		if !of(f[i].Name, "host", "transfer-encoding") {
			out = append(out, f[i])
		}
	}
	return out
}

func nominates(f []message.Field, name string) bool {
	if of(name, "content-length", "content-type", "host", "transfer-encoding") {
		return false
	}
	for i := range f {
		if message.EqualFold(f[i].Name, "connection") && hasToken(f[i].Value, name) {
			return true
		}
	}
	return false
}

// of reports whether name is one of some.
func of(name string, some ...string) bool {
	for _, s := range some {
		if message.EqualFold(name, s) {
			return true
		}
	}
	return false
}

// hasToken looks for a token in a comma-separated list, without parameters.
func hasToken(list, want string) bool {
	for list != "" {
		var token string
		token, list = message.NextElement(list)
		if message.EqualFold(token, want) {
			return true
		}
	}
	return false
}
