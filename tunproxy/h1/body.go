package h1

// body decodes one message's content (RFC 9112, section 6), in place: what next
// returns is part of what it was given.
//
//	chunked:  size ──CR──▶ sizeLF ─┬─▶ data ─▶ dataCR ─▶ dataLF ─▶ size
//	           │ ▲                 └─▶ trailers ─▶ done        (size 0)
//	           ▼ │;
//	         extensions
type body struct {
	state chunkState
	mode  bodyMode
	left  int64 // of the body, or of the chunk
	// digits of the current size, and extension bytes of all chunks, are bounded.
	digits, extensions int
}

type bodyMode uint8

const (
	noBody      bodyMode = iota
	lengthBody           // left bytes
	chunkedBody          // chunks and trailers
	closeBody            // until the connection's end (responses)
	rawBody              // bytes of another protocol, until half-close
)

type chunkState uint8

const (
	chunkSize       chunkState = iota
	chunkBlank                 // white space after a size or an extension
	chunkName                  // an extension's name
	chunkNamed                 // inside a name
	chunkNamedBlank            // white space after a name
	chunkValue                 // the first byte of a value
	chunkToken                 // a token value
	chunkQuoted                // a quoted value
	chunkEscaped               // after a backslash
	chunkAfter                 // after a quoted value
	chunkSizeLF
	chunkData
	chunkDataCR
	chunkDataLF
	chunkTrailers
)

var (
	errChunkSize      = &Error{400, "invalid chunk size"}
	errChunkExtension = &Error{400, "invalid chunk extension"}
	errExtensionSize  = &Error{400, "too many chunk extensions"}
	errChunkEnd       = &Error{400, "chunk data without CR LF"}
)

// next decodes b: it used n bytes, of which data (at most limit) is content.
// trailers means that b[n:] begins with the trailer section, and done that the
// body is over. It uses everything up to data; the caller goes on with the rest.
func (d *body) next(b []byte, limit int) (data []byte, n int, trailers, done bool, err *Error) {
	switch d.mode {
	case noBody:
		return nil, 0, false, true, nil
	case lengthBody:
		data = b[:min(int64(len(b)), d.left, int64(limit))]
		d.left -= int64(len(data))
		return data, len(data), false, d.left == 0, nil
	case closeBody, rawBody:
		data = b[:min(len(b), limit)]
		return data, len(data), false, false, nil
	}
	for n < len(b) {
		if d.state == chunkData {
			data = b[n : n+int(min(int64(len(b)-n), d.left, int64(limit)))]
			d.left -= int64(len(data))
			n += len(data)
			if d.left == 0 {
				d.state = chunkDataCR
				if d.lastFollows(b[n:]) {
					return data, n + len(lastChunk), false, true, nil
				}
			}
			if len(data) > 0 || limit == 0 {
				return data, n, false, false, nil
			}
			continue
		}
		if d.state == chunkTrailers {
			return nil, n, true, false, nil
		}
		if err := d.framing(b[n]); err != nil {
			return nil, n, false, false, err
		}
		n++
	}
	return nil, n, d.state == chunkTrailers, false, nil
}

// lastChunk is how nearly every chunked body ends.
const lastChunk = "\r\n0\r\n\r\n"

// lastFollows reports that b begins with the plain end of the body, so that the
// last data and the end are one event.
func (d *body) lastFollows(b []byte) bool {
	return len(b) >= len(lastChunk) && string(b[:len(lastChunk)]) == lastChunk
}

// framing takes one byte that is not data.
func (d *body) framing(c byte) *Error {
	switch d.state {
	case chunkSize:
		return d.size(c)
	case chunkSizeLF:
		if c != '\n' {
			return errBareCR
		}
		d.digits = 0
		d.state = chunkData
		if d.left == 0 {
			d.state = chunkTrailers
		}
		return nil
	case chunkDataCR:
		if c != '\r' {
			return errChunkEnd
		}
		d.state = chunkDataLF
		return nil
	case chunkDataLF:
		if c != '\n' {
			return errChunkEnd
		}
		d.state = chunkSize
		return nil
	}
	if d.extensions++; d.extensions > maxExtensionsPerBody {
		return errExtensionSize
	}
	return d.extension(c)
}

// size takes a byte of a chunk's size: hexadecimal digits and nothing else, at
// most 15 of them, so that no sum can overflow.
func (d *body) size(c byte) *Error {
	var v byte
	switch {
	case c >= '0' && c <= '9':
		v = c - '0'
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		v = c | 0x20 - 'a' + 10
	case d.digits == 0:
		if c == '\n' {
			return errBareLF
		}
		return errChunkSize
	case c == '\r':
		d.state = chunkSizeLF
		return nil
	case c == ';':
		d.state = chunkName
		return nil
	case c == ' ' || c == '\t':
		d.state = chunkBlank
		return nil
	case c == '\n':
		return errBareLF
	default:
		return errChunkSize
	}
	if d.digits == 0 {
		d.left = 0
	}
	if d.digits++; d.digits > 15 {
		return errChunkSize
	}
	d.left = d.left<<4 | int64(v)
	return nil
}

// extension takes a byte of chunk-ext (RFC 9112, section 7.1.1). Extensions end
// here: nobody may rely on them beyond one hop.
func (d *body) extension(c byte) *Error {
	blank := c == ' ' || c == '\t'
	if c == '\n' {
		return errBareLF
	}
	if c == '\r' && (d.state == chunkToken || d.state == chunkAfter || d.state == chunkNamed) {
		d.state = chunkSizeLF
		return nil
	}
	switch d.state {
	case chunkBlank: // only another extension may follow white space
		if c == ';' {
			d.state = chunkName
			return nil
		}
		if blank {
			return nil
		}
	case chunkName:
		if class[c]&isToken != 0 {
			d.state = chunkNamed
			return nil
		}
		if blank {
			return nil
		}
	case chunkNamed:
		switch {
		case class[c]&isToken != 0:
			return nil
		case c == '=':
			d.state = chunkValue
			return nil
		case c == ';':
			d.state = chunkName
			return nil
		case blank:
			d.state = chunkNamedBlank
			return nil
		}
	case chunkNamedBlank:
		switch {
		case c == '=':
			d.state = chunkValue
			return nil
		case c == ';':
			d.state = chunkName
			return nil
		case blank:
			return nil
		}
	case chunkValue:
		switch {
		case c == '"':
			d.state = chunkQuoted
			return nil
		case class[c]&isToken != 0:
			d.state = chunkToken
			return nil
		case blank:
			return nil
		}
	case chunkToken:
		switch {
		case class[c]&isToken != 0:
			return nil
		case c == ';':
			d.state = chunkName
			return nil
		case blank:
			d.state = chunkBlank
			return nil
		}
	case chunkQuoted:
		switch {
		case c == '"':
			d.state = chunkAfter
			return nil
		case c == '\\':
			d.state = chunkEscaped
			return nil
		case class[c]&isValue != 0:
			return nil
		}
	case chunkEscaped:
		if class[c]&isValue != 0 {
			d.state = chunkQuoted
			return nil
		}
	case chunkAfter:
		switch {
		case c == ';':
			d.state = chunkName
			return nil
		case blank:
			d.state = chunkBlank
			return nil
		}
	}
	return errChunkExtension
}
