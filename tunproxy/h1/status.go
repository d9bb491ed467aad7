package h1

import "github.com/tunmesh/tunmesh/tunproxy/message"

// parseResponse parses the head s of a response, which ends with an empty line.
// What a body's framing depends on besides is the caller's.
func parseResponse(s string, maxFields int, h *message.Head, f *framing) *Error {
	*h = message.Head{Fields: h.Fields[:0]}
	*f = framing{length: -1}
	pos, err := statusLine(s, h)
	if err != nil {
		return err
	}
	p := fields{s: s, pos: pos, max: maxFields, h: h, f: f}
	if err := p.parse(); err != nil {
		return badResponse(err)
	}
	// The same length twice is one length (RFC 9112, section 6.3); only the first
	// is kept, and so forwarded.
	if p.lengthsDiffer {
		return badResponse(errManyLengths)
	}
	if p.codings > 0 {
		switch {
		case h.Version == message.HTTP10:
			return badResponse(errTE10)
		case p.lengths > 0:
			return badResponse(errLengthAndTE)
		case p.codings > 1:
			return badResponse(errManyTE)
		case !fold(p.coding, "chunked"):
			return badResponse(errTE)
		}
		f.chunked = true
	}
	h.ContentLength = f.length
	return nil
}

// badResponse makes a request's error a response's: the same reason, but the
// server's fault.
func badResponse(e *Error) *Error { return &Error{502, e.Reason} }

// statusLine parses "version SP status [SP reason] CRLF". The space after the
// status is left out by many servers that have no reason to give.
func statusLine(s string, h *message.Head) (int, *Error) {
	const prefix = len("HTTP/1.1 200")
	if len(s) < prefix+2 || s[:7] != "HTTP/1." || s[7]-'0' > 9 || s[8] != ' ' {
		return 0, errStatusLine
	}
	h.Version = message.HTTP11
	if s[7] == '0' {
		h.Version = message.HTTP10
	}
	for _, c := range []byte(s[9:12]) {
		if c-'0' > 9 {
			return 0, errStatus
		}
		h.Status = h.Status*10 + int(c-'0')
	}
	if h.Status < 100 {
		return 0, errStatus
	}
	i := prefix
	if s[i] == ' ' {
		i++
		start := i
		for class[s[i]]&isValue != 0 {
			i++
		}
		h.Reason = s[start:i]
	}
	if s[i] != '\r' || s[i+1] != '\n' {
		return 0, badResponse(lineError(s[i], errStatusLine))
	}
	return i + 2, nil
}

// phrase is the reason of responses that were not received over HTTP/1
// (RFC 9110, section 15). Others have none, which is allowed.
func phrase(status int) string {
	switch status {
	case 100:
		return "Continue"
	case 101:
		return "Switching Protocols"
	case 103:
		return "Early Hints"
	case 200:
		return "OK"
	case 201:
		return "Created"
	case 202:
		return "Accepted"
	case 204:
		return "No Content"
	case 206:
		return "Partial Content"
	case 301:
		return "Moved Permanently"
	case 302:
		return "Found"
	case 303:
		return "See Other"
	case 304:
		return "Not Modified"
	case 307:
		return "Temporary Redirect"
	case 308:
		return "Permanent Redirect"
	case 400:
		return "Bad Request"
	case 401:
		return "Unauthorized"
	case 403:
		return "Forbidden"
	case 404:
		return "Not Found"
	case 405:
		return "Method Not Allowed"
	case 408:
		return "Request Timeout"
	case 409:
		return "Conflict"
	case 410:
		return "Gone"
	case 413:
		return "Content Too Large"
	case 414:
		return "URI Too Long"
	case 415:
		return "Unsupported Media Type"
	case 422:
		return "Unprocessable Content"
	case 426:
		return "Upgrade Required"
	case 429:
		return "Too Many Requests"
	case 431:
		return "Request Header Fields Too Large"
	case 500:
		return "Internal Server Error"
	case 501:
		return "Not Implemented"
	case 502:
		return "Bad Gateway"
	case 503:
		return "Service Unavailable"
	case 504:
		return "Gateway Timeout"
	case 505:
		return "HTTP Version Not Supported"
	case 508:
		return "Loop Detected"
	}
	return ""
}
