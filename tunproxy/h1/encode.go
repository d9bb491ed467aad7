package h1

import (
	"strconv"

	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// How a head is to be framed.
type encoding struct {
	mode      bodyMode
	explicit0 bool // noBody, but the length 0 has to be said
	keepBody  bool // noBody, but the fields say what a body would be (HEAD, 304)
	host      bool // Host is among the fields, and is to be written there
	te        bool // TE: trailers was among the fields
	upgrade   bool // Connection: upgrade
	close     bool // Connection: close
	keepAlive bool // Connection: keep-alive (HTTP/1.0)
	length    int64
}

// appendRequest writes the head of a request. It reports false, and the caller
// drops what was appended, when the head can't be written without changing what
// it means: that would be request smuggling.
func appendRequest(out []byte, h *message.Head, e *encoding) ([]byte, bool) {
	if h.Method == "" || !all(h.Method, isToken) || !all(h.Authority, isHost) {
		return out, false
	}
	out = append(out, h.Method...)
	out = append(out, ' ')
	out, ok := appendTarget(out, h)
	if !ok {
		return out, false
	}
	if h.Version == message.HTTP10 {
		out = append(out, " HTTP/1.0\r\n"...)
	} else {
		out = append(out, " HTTP/1.1\r\n"...)
	}
	e.host = hasHost(h.Fields)
	if !e.host && (h.Authority != "" || h.Version != message.HTTP10) {
		out = appendField(out, "Host", h.Authority)
	}
	return appendFields(out, h, e)
}

func hasHost(fs []message.Field) bool {
	for i := range fs {
		if classify(fs[i].Name) == fieldHost {
			return true
		}
	}
	return false
}

func appendTarget(out []byte, h *message.Head) ([]byte, bool) {
	if h.Method == "CONNECT" {
		return append(out, h.Authority...), h.Authority != "" && h.Form == message.Authority
	}
	if !all(h.Path, isTarget) || h.Path == "" {
		return out, false
	}
	switch {
	case h.Form == message.Absolute && h.Authority != "":
		if h.Scheme != "http" && h.Scheme != "https" {
			return out, false
		}
		out = append(out, h.Scheme...)
		out = append(out, "://"...)
		out = append(out, h.Authority...)
		if h.Path == "*" {
			return out, h.Method == "OPTIONS"
		}
	case h.Path == "*":
		return append(out, '*'), h.Method == "OPTIONS"
	}
	return append(out, h.Path...), h.Path[0] == '/'
}

// appendResponse writes the head of a response. version10: the client speaks
// HTTP/1.0.
func appendResponse(out []byte, h *message.Head, version10 bool, e *encoding) ([]byte, bool) {
	if h.Status < 100 || h.Status > 999 || !all(h.Reason, isValue) {
		return out, false
	}
	if version10 {
		out = append(out, "HTTP/1.0 "...)
	} else {
		out = append(out, "HTTP/1.1 "...)
	}
	out = strconv.AppendInt(out, int64(h.Status), 10)
	out = append(out, ' ')
	if h.Reason == "" && h.Version == message.HTTP2 {
		out = append(out, phrase(h.Status)...)
	} else {
		out = append(out, h.Reason...)
	}
	out = append(out, '\r', '\n')
	return appendFields(out, h, e)
}

// appendFields writes the fields that belong to the message, the framing, and the
// connection's own options.
func appendFields(out []byte, h *message.Head, e *encoding) ([]byte, bool) {
	nominated := nominates(h.Fields)
	framed := false
	for i := range h.Fields {
		f := &h.Fields[i]
		switch classify(f.Name) {
		case fieldHost:
			if e.host {
				e.host = false
				out = appendField(out, f.Name, h.Authority)
			}
			continue
		case fieldConnection, fieldKeepAlive, fieldProxyConnection, fieldHTTP2Settings:
			continue
		case fieldTE:
			if !e.te && fold(message.TrimOWS(f.Value), "trailers") {
				e.te = true
				out = appendField(out, f.Name, "trailers")
			}
			continue
		case fieldUpgrade:
			if !e.upgrade {
				continue
			}
		case fieldContentLength:
			switch {
			case e.mode == lengthBody && !framed, e.mode == noBody && e.explicit0 && !framed:
				framed = true
				out = appendLength(out, f.Name, e.length)
			case e.mode == noBody && e.keepBody:
				if _, ok := parseLength(f.Value); !ok {
					return out, false
				}
				out = appendField(out, f.Name, f.Value)
			}
			continue
		case fieldTransferEncoding:
			if e.mode == chunkedBody && !framed || e.mode == noBody && e.keepBody && !framed {
				framed = true
				out = appendField(out, f.Name, "chunked")
			}
			continue
		}
		if nominated && isNominated(h.Fields, f.Name) {
			continue
		}
		if f.Name == "" || !all(f.Name, isToken) || !all(f.Value, isValue) {
			return out, false
		}
		out = appendField(out, f.Name, f.Value)
	}
	if !framed {
		switch {
		case e.mode == lengthBody, e.mode == noBody && e.explicit0:
			out = appendLength(out, "Content-Length", e.length)
		case e.mode == chunkedBody:
			out = appendField(out, "Transfer-Encoding", "chunked")
		}
	}
	return append(appendOptions(out, e), '\r', '\n'), true
}

// appendOptions writes Connection, which has to nominate TE.
func appendOptions(out []byte, e *encoding) []byte {
	value := ""
	switch {
	case e.upgrade && e.close:
		value = "close, Upgrade"
	case e.upgrade:
		value = "Upgrade"
	case e.close:
		value = "close"
	case e.keepAlive:
		value = "keep-alive"
	}
	switch {
	case e.te && value == "":
		value = "TE"
	case e.te:
		out = append(out, "Connection: TE, "...)
		out = append(out, value...)
		return append(out, '\r', '\n')
	case value == "":
		return out
	}
	return appendField(out, "Connection", value)
}

func appendField(out []byte, name, value string) []byte {
	out = append(out, name...)
	out = append(out, ':', ' ')
	out = append(out, value...)
	return append(out, '\r', '\n')
}

func appendLength(out []byte, name string, n int64) []byte {
	out = append(out, name...)
	out = append(out, ':', ' ')
	out = strconv.AppendInt(out, n, 10)
	return append(out, '\r', '\n')
}

// appendTrailers writes a trailer section. Fields that must not be there are left
// out: whoever merges trailers into the head would read another message.
func appendTrailers(out []byte, f []message.Field) ([]byte, bool) {
	for i := range f {
		if classify(f[i].Name) != ordinary {
			continue
		}
		if f[i].Name == "" || !all(f[i].Name, isToken) || !all(f[i].Value, isValue) {
			return out, false
		}
		out = appendField(out, f[i].Name, f[i].Value)
	}
	return append(out, '\r', '\n'), true
}

// nominates reports whether a Connection field names fields of the connection
// besides the ones known here.
func nominates(fs []message.Field) bool {
	for i := range fs {
		if classify(fs[i].Name) != fieldConnection {
			continue
		}
		for rest := fs[i].Value; rest != ""; {
			var t string
			t, rest = message.NextElement(rest)
			if t != "" && !fold(t, "close") && !fold(t, "keep-alive") && !fold(t, "upgrade") && !fold(t, "te") {
				return true
			}
		}
	}
	return false
}

func isNominated(fs []message.Field, name string) bool {
	for i := range fs {
		if classify(fs[i].Name) != fieldConnection {
			continue
		}
		for rest := fs[i].Value; rest != ""; {
			var t string
			t, rest = message.NextElement(rest)
			if message.EqualFold(t, name) {
				return true
			}
		}
	}
	return false
}
