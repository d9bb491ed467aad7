package h1

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// TestRFC9112 is what a server does with the bytes of a request, clause by clause
// of RFC 9112 (or 9110 where named). A verdict is either the summary of what was
// delivered or the status and reason of the refusal, after which the connection
// closes and nothing more of it is looked at.
func TestRFC9112(t *testing.T) {
	const (
		host  = "Host: a\r\n"
		get   = "GET / HTTP/1.1\r\n" + host
		post  = "POST / HTTP/1.1\r\n" + host
		chunk = post + "Transfer-Encoding: chunked\r\n\r\n"
		end   = "\r\n"
	)
	for _, tt := range []struct{ clause, name, in, want string }{
		// 2.1, 2.2: message format and parsing.
		{"2.1", "the least request", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET a / 1.1 0"},
		{"2.2", "one empty line before", "\r\n" + get + end, "GET a / 1.1 0"},
		{"2.2", "four empty lines before", "\r\n\r\n\r\n\r\n" + get + end, "GET a / 1.1 0"},
		{"2.2", "five empty lines before", "\r\n\r\n\r\n\r\n\r\n" + get + end, "400 too many empty lines before the request"},
		{"2.2", "bare LF before", "\n" + get + end, "400 bare LF"},
		{"2.2", "bare CR before", "\r" + get + end, "400 malformed request line"},
		{"2.2", "bare LF after the request line", "GET / HTTP/1.1\n" + host + end, "400 bare LF"},
		{"2.2", "bare LF after a field", "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", "400 bare LF"},
		{"2.2", "bare LF as the empty line", "GET / HTTP/1.1\r\nHost: a\r\n\n", "400 bare LF"},
		{"2.2", "only bare LFs", "GET / HTTP/1.1\nHost: a\n\n", "400 bare LF"},
		{"2.2", "bare CR in a value", get + "X: a\rb\r\n\r\n", "400 bare CR"},
		{"2.2", "CR CR LF after a field", get + "X: a\r\r\n\r\n", "400 bare CR"},
		{"2.2", "CR CR LF as the empty line", get + "\r\r\n\r\n", "400 bare CR"},
		{"2.2", "space before the first field", "GET / HTTP/1.1\r\n " + host + end, "400 folded header line"},
		{"2.2", "tab before the first field", "GET / HTTP/1.1\r\n\t" + host + end, "400 folded header line"},
		{"2.2", "space before the method", " " + get + end, "400 invalid method"},
		{"2.2", "NUL in the request line", "GET /\x00 HTTP/1.1\r\n" + host + end, "400 NUL byte"},
		{"2.2", "TLS to a plain port", "\x16\x03\x01\x00\x05hello", "400 invalid method"},

		// 2.3: version.
		{"2.3", "HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", "GET  / 1.0 0"},
		{"2.3", "HTTP/1.0 with Host", "GET / HTTP/1.0\r\n" + host + end, "GET a / 1.0 0"},
		{"2.3", "a higher minor version", "GET / HTTP/1.2\r\n" + host + end, "GET a / 1.1 0"},
		{"2.3", "HTTP/2.0", "GET / HTTP/2.0\r\n" + host + end, "505 unsupported HTTP version"},
		{"2.3", "HTTP/2's preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505 unsupported HTTP version"},
		{"2.3", "HTTP/0.9 in words", "GET / HTTP/0.9\r\n\r\n", "505 unsupported HTTP version"},
		{"2.3", "HTTP/0.9", "GET /\r\n\r\n", "400 malformed request line"},
		{"2.3", "lower case", "GET / http/1.1\r\n" + host + end, "400 malformed HTTP version"},
		{"2.3", "two digits", "GET / HTTP/1.10\r\n" + host + end, "400 malformed HTTP version"},
		{"2.3", "no minor version", "GET / HTTP/1\r\n" + host + end, "400 malformed HTTP version"},
		{"2.3", "no dot", "GET / HTTP/11\r\n" + host + end, "400 malformed HTTP version"},
		{"2.3", "leading zero", "GET / HTTP/01.1\r\n" + host + end, "400 malformed HTTP version"},
		{"2.3", "other protocol", "GET / HTTQ/1.1\r\n" + host + end, "400 malformed HTTP version"},
		{"2.3", "no version", "GET / \r\n" + host + end, "400 malformed HTTP version"},

		// 3, 3.1: request line and method.
		{"3", "two spaces after the method", "GET  / HTTP/1.1\r\n" + host + end, "400 invalid request target"},
		{"3", "two spaces before the version", "GET /  HTTP/1.1\r\n" + host + end, "400 malformed HTTP version"},
		{"3", "tab instead of space", "GET\t/ HTTP/1.1\r\n" + host + end, "400 invalid method"},
		{"3", "space after the version", "GET / HTTP/1.1 \r\n" + host + end, "400 malformed HTTP version"},
		{"3", "vertical tab as white space", "GET\v/ HTTP/1.1\r\n" + host + end, "400 invalid method"},
		{"3", "bare CR as white space", "GET\r/ HTTP/1.1\r\n" + host + end, "400 malformed request line"},
		{"3", "space in the target", "GET /a b HTTP/1.1\r\n" + host + end, "400 malformed HTTP version"},
		{"3.1", "unknown method", "BREW / HTTP/1.1\r\n" + host + end, "BREW a / 1.1 0"},
		{"3.1", "methods keep their case", "get / HTTP/1.1\r\n" + host + end, "get a / 1.1 0"},
		{"3.1", "method with punctuation", "M-S!#$%&'*+.^_`|~ / HTTP/1.1\r\n" + host + end, "M-S!#$%&'*+.^_`|~ a / 1.1 0"},
		{"3.1", "method with a separator", "GE(T / HTTP/1.1\r\n" + host + end, "400 invalid method"},
		{"3.1", "method with a colon", "GET: / HTTP/1.1\r\n" + host + end, "400 invalid method"},
		{"3.1", "method with a high byte", "G\xc3\x8bT / HTTP/1.1\r\n" + host + end, "400 invalid method"},

		// 3.2: request target.
		{"3.2", "fragment", "GET /a#b HTTP/1.1\r\n" + host + end, "400 invalid request target"},
		{"3.2", "control byte", "GET /\x01 HTTP/1.1\r\n" + host + end, "400 invalid request target"},
		{"3.2", "DEL", "GET /\x7f HTTP/1.1\r\n" + host + end, "400 invalid request target"},
		{"3.2", "raw UTF-8", "GET /\xc3\xa4 HTTP/1.1\r\n" + host + end, "GET a /\xc3\xa4 1.1 0"},
		{"3.2.1", "query", "GET /?a=b&c HTTP/1.1\r\n" + host + end, "GET a /?a=b&c 1.1 0"},
		{"3.2.1", "two slashes", "GET //b/c HTTP/1.1\r\n" + host + end, "GET a //b/c 1.1 0"},
		{"3.2.1", "dot segments are not resolved", "GET /a/../b HTTP/1.1\r\n" + host + end, "GET a /a/../b 1.1 0"},
		{"3.2.1", "relative path", "GET index.html HTTP/1.1\r\n" + host + end, "400 invalid request target"},
		{"3.2.1", "only a query", "GET ?a HTTP/1.1\r\n" + host + end, "400 invalid request target"},
		{"3.2.2", "absolute form", "GET http://b/c?d HTTP/1.1\r\n" + host + end, "GET b /c?d 1.1 0 absolute"},
		{"3.2.2", "absolute form, https", "GET https://b:1/ HTTP/1.1\r\n" + host + end, "GET b:1 / 1.1 0 absolute"},
		{"3.2.2", "absolute form, case", "GET HTTP://B/ HTTP/1.1\r\n" + host + end, "GET B / 1.1 0 absolute"},
		{"3.2.2", "absolute form without path", "GET http://b HTTP/1.1\r\n" + host + end, "GET b / 1.1 0 absolute"},
		{"3.2.2", "absolute form with query only", "GET http://b?c HTTP/1.1\r\n" + host + end, "GET b /?c 1.1 0 absolute"},
		{"3.2.2", "the target's authority wins", "GET http://b/ HTTP/1.1\r\nHost: evil\r\n\r\n", "GET b / 1.1 0 absolute"},
		{"3.2.2", "absolute form needs Host too", "GET http://b/ HTTP/1.1\r\n\r\n", "400 no Host field"},
		{"3.2.2", "other scheme", "GET ftp://b/ HTTP/1.1\r\n" + host + end, "400 invalid request target"},
		{"3.2.2", "no authority", "GET http:/// HTTP/1.1\r\n" + host + end, "400 invalid authority"},
		{"3.2.2", "one slash", "GET http:/b HTTP/1.1\r\n" + host + end, "400 invalid request target"},
		{"9110-4.2.4", "user information", "GET http://u@b/ HTTP/1.1\r\n" + host + end, "400 invalid authority"},
		{"3.2.2", "backslash in the authority", "GET http://b\\c/ HTTP/1.1\r\n" + host + end, "400 invalid authority"},
		{"3.2.3", "CONNECT", "CONNECT b:443 HTTP/1.1\r\n" + host + end, "CONNECT b:443  1.1 0 authority"},
		{"3.2.3", "CONNECT, IPv6", "CONNECT [::1]:443 HTTP/1.1\r\n" + host + end, "CONNECT [::1]:443  1.1 0 authority"},
		{"3.2.3", "CONNECT without port", "CONNECT b HTTP/1.1\r\n" + host + end, "400 invalid authority"},
		{"3.2.3", "CONNECT with an empty port", "CONNECT b: HTTP/1.1\r\n" + host + end, "400 invalid authority"},
		{"3.2.3", "CONNECT with a path", "CONNECT b:1/x HTTP/1.1\r\n" + host + end, "400 invalid authority"},
		{"3.2.3", "CONNECT in origin form", "CONNECT / HTTP/1.1\r\n" + host + end, "400 invalid authority"},
		{"3.2.3", "authority form of another method", "GET b:443 HTTP/1.1\r\n" + host + end, "400 invalid request target"},
		{"9110-9.3.6", "CONNECT with a length", "CONNECT b:1 HTTP/1.1\r\n" + host + "Content-Length: 3\r\n\r\nabc", "400 CONNECT with a body"},
		{"9110-9.3.6", "CONNECT in chunks", "CONNECT b:1 HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400 CONNECT with a body"},
		{"3.2.4", "asterisk", "OPTIONS * HTTP/1.1\r\n" + host + end, "OPTIONS a * 1.1 0 asterisk"},
		{"3.2.4", "asterisk by absolute form", "OPTIONS http://b HTTP/1.1\r\n" + host + end, "OPTIONS b * 1.1 0 absolute"},
		{"3.2.4", "asterisk of another method", "GET * HTTP/1.1\r\n" + host + end, "400 invalid request target"},
		{"3.2.4", "asterisk and more", "OPTIONS *x HTTP/1.1\r\n" + host + end, "400 invalid request target"},

		// 3.2, 9110-7.2: Host.
		{"3.2", "no Host", "GET / HTTP/1.1\r\n\r\n", "400 no Host field"},
		{"3.2", "two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400 more than one Host field"},
		{"3.2", "the same Host twice", "GET / HTTP/1.1\r\nHost: a\r\nhOST: a\r\n\r\n", "400 more than one Host field"},
		{"3.2", "two Hosts in HTTP/1.0", "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", "400 more than one Host field"},
		{"3.2", "empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", "GET  / 1.1 0"},
		{"3.2", "Host with port", "GET / HTTP/1.1\r\nHost: a:80\r\n\r\n", "GET a:80 / 1.1 0"},
		{"3.2", "Host with empty port", "GET / HTTP/1.1\r\nHost: a:\r\n\r\n", "GET a: / 1.1 0"},
		{"3.2", "Host, IPv6", "GET / HTTP/1.1\r\nHost: [fe80::1%25x]:80\r\n\r\n", "400 invalid Host field"},
		{"3.2", "Host, IPv6 without zone", "GET / HTTP/1.1\r\nHost: [fe80::1]:80\r\n\r\n", "GET [fe80::1]:80 / 1.1 0"},
		{"3.2", "Host, open bracket", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", "400 invalid Host field"},
		{"3.2", "Host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "400 invalid Host field"},
		{"3.2", "Host with a user", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", "400 invalid Host field"},
		{"3.2", "Host with a space", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "400 invalid Host field"},
		{"3.2", "Host list", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", "400 invalid Host field"},
		{"3.2", "Host with two ports", "GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", "400 invalid Host field"},
		{"3.2", "Host with a bad port", "GET / HTTP/1.1\r\nHost: a:x\r\n\r\n", "400 invalid Host field"},
		{"3.2", "Host with a long port", "GET / HTTP/1.1\r\nHost: a:123456\r\n\r\n", "400 invalid Host field"},
		{"3.2", "Host of a port alone", "GET / HTTP/1.1\r\nHost: :80\r\n\r\n", "400 invalid Host field"},
		{"3.2", "Host with a high byte", "GET / HTTP/1.1\r\nHost: \xc3\xa4\r\n\r\n", "400 invalid Host field"},

		// 5: field syntax.
		{"5", "no white space after the colon", "GET / HTTP/1.1\r\nHost:a\r\n\r\n", "GET a / 1.1 0"},
		{"5", "white space around the value", "GET / HTTP/1.1\r\nHost: \t a \t \r\n\r\n", "GET a / 1.1 0"},
		{"5", "empty value", get + "X:\r\n\r\n", "GET a / 1.1 0"},
		{"5", "no colon", get + "X\r\n\r\n", "400 header line without a colon"},
		{"5", "empty name", get + ": x\r\n\r\n", "400 empty field name"},
		{"5.1", "space before the colon", get + "X : y\r\n\r\n", "400 space before a colon"},
		{"5.1", "tab before the colon", get + "X\t: y\r\n\r\n", "400 space before a colon"},
		{"5.1", "space before Content-Length's colon", post + "Content-Length : 3\r\n\r\nabc", "400 space before a colon"},
		{"5.1", "space in a name", get + "X Y: z\r\n\r\n", "400 space before a colon"},
		{"5.1", "parenthesis in a name", get + "X(Y: z\r\n\r\n", "400 invalid field name"},
		{"5.1", "high byte in a name", get + "X\xff: z\r\n\r\n", "400 invalid field name"},
		{"5.1", "NUL in a name", get + "X\x00: z\r\n\r\n", "400 NUL byte"},
		{"5.1", "quote in a name", get + "\"X\": z\r\n\r\n", "400 invalid field name"},
		{"5.2", "folded value", get + "X: y\r\n z\r\n\r\n", "400 folded header line"},
		{"5.2", "folded with a tab", get + "X: y\r\n\tz\r\n\r\n", "400 folded header line"},
		{"5.2", "folded Transfer-Encoding", post + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", "400 folded header line"},
		{"9110-5.5", "NUL in a value", get + "X: a\x00b\r\n\r\n", "400 NUL byte"},
		{"9110-5.5", "control byte in a value", get + "X: a\x0bb\r\n\r\n", "400 control byte in a field value"},
		{"9110-5.5", "DEL in a value", get + "X: a\x7fb\r\n\r\n", "400 control byte in a field value"},
		{"9110-5.5", "tab in a value", get + "X: a\tb\r\n\r\n", "GET a / 1.1 0"},
		{"9110-5.5", "high bytes in a value", get + "X: \xc3\xa4\xff\r\n\r\n", "GET a / 1.1 0"},

		// 6: body length.
		{"6.2", "length", post + "Content-Length: 3\r\n\r\nabc", "POST a / 1.1 3 body=abc"},
		{"6.2", "length zero", post + "Content-Length: 0\r\n\r\n", "POST a / 1.1 0"},
		{"6.2", "leading zeros", post + "Content-Length: 0003\r\n\r\nabc", "POST a / 1.1 3 body=abc"},
		{"6.2", "a body of GET", get + "Content-Length: 3\r\n\r\nabc", "GET a / 1.1 3 body=abc"},
		{"6.3", "no length is no body", post + end, "POST a / 1.1 0"},
		{"6.2", "negative length", post + "Content-Length: -1\r\n\r\n", "400 invalid Content-Length"},
		{"6.2", "plus sign", post + "Content-Length: +3\r\n\r\nabc", "400 invalid Content-Length"},
		{"6.2", "hexadecimal", post + "Content-Length: 0x3\r\n\r\nabc", "400 invalid Content-Length"},
		{"6.2", "fraction", post + "Content-Length: 3.0\r\n\r\nabc", "400 invalid Content-Length"},
		{"6.2", "space inside", post + "Content-Length: 3 3\r\n\r\nabc", "400 invalid Content-Length"},
		{"6.2", "empty length", post + "Content-Length:\r\n\r\n", "400 invalid Content-Length"},
		{"6.2", "a list", post + "Content-Length: 3, 3\r\n\r\nabc", "400 invalid Content-Length"},
		{"6.2", "underscore", post + "Content-Length: 1_0\r\n\r\n", "400 invalid Content-Length"},
		{"6.2", "beyond 64 bits", post + "Content-Length: 18446744073709551617\r\n\r\nx", "400 invalid Content-Length"},
		{"6.3", "two lengths", post + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", "400 more than one Content-Length"},
		{"6.3", "the same length twice", post + "Content-Length: 3\r\ncontent-length: 3\r\n\r\nabc", "400 more than one Content-Length"},
		{"6.3", "length and chunks", post + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400 Content-Length and Transfer-Encoding"},
		{"6.3", "chunks and length", post + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", "400 Content-Length and Transfer-Encoding"},
		{"6.1", "chunks", chunk + "3\r\nabc\r\n0\r\n\r\n", "POST a / 1.1 -1 body=abc"},
		{"6.1", "CHUNKED", post + "Transfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n", "POST a / 1.1 -1"},
		{"6.1", "chunks in HTTP/1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400 Transfer-Encoding in HTTP/1.0"},
		{"6.1", "twice", post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400 more than one Transfer-Encoding"},
		{"6.1", "chunked, chunked", post + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", "400 invalid Transfer-Encoding"},
		{"6.1", "chunked first", post + "Transfer-Encoding: chunked, gzip\r\n\r\n", "400 invalid Transfer-Encoding"},
		{"6.1", "gzip, chunked", post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "501 unknown transfer coding"},
		{"6.1", "identity", post + "Transfer-Encoding: identity\r\n\r\n", "400 invalid Transfer-Encoding"},
		{"6.1", "xchunked", post + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "400 invalid Transfer-Encoding"},
		{"6.1", "chunked with a parameter", post + "Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", "400 invalid Transfer-Encoding"},
		{"6.1", "quoted", post + "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", "400 invalid Transfer-Encoding"},
		{"6.1", "empty", post + "Transfer-Encoding:\r\n\r\n", "400 invalid Transfer-Encoding"},
		{"6.1", "trailing comma", post + "Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n", "400 invalid Transfer-Encoding"},
		{"6.1", "vertical tab before chunked", post + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", "400 control byte in a field value"},
		{"6.1", "bare CR before chunked", post + "Transfer-Encoding: \rchunked\r\n\r\n0\r\n\r\n", "400 bare CR"},

		// 7.1: chunked.
		{"7.1", "several chunks", chunk + "1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", "POST a / 1.1 -1 body=abc"},
		{"7.1", "hexadecimal sizes", chunk + "A\r\n0123456789\r\nb\r\n0123456789a\r\n0\r\n\r\n", "POST a / 1.1 -1 body=01234567890123456789a"},
		{"7.1", "leading zeros", chunk + "0003\r\nabc\r\n000\r\n\r\n", "POST a / 1.1 -1 body=abc"},
		{"7.1", "empty body", chunk + "0\r\n\r\n", "POST a / 1.1 -1"},
		{"7.1", "0x prefix", chunk + "0x3\r\nabc\r\n0\r\n\r\n", "400 invalid chunk size"},
		{"7.1", "negative size", chunk + "-3\r\nabc\r\n0\r\n\r\n", "400 invalid chunk size"},
		{"7.1", "plus sign", chunk + "+3\r\nabc\r\n0\r\n\r\n", "400 invalid chunk size"},
		{"7.1", "empty size", chunk + "\r\nabc\r\n0\r\n\r\n", "400 invalid chunk size"},
		{"7.1", "space before the size", chunk + " 3\r\nabc\r\n0\r\n\r\n", "400 invalid chunk size"},
		{"7.1", "space after the size", chunk + "3 \r\nabc\r\n0\r\n\r\n", "400 invalid chunk extension"},
		{"7.1", "underscore", chunk + "1_0\r\nabc\r\n0\r\n\r\n", "400 invalid chunk size"},
		{"7.1", "16 digits", chunk + "0000000000000003\r\nabc\r\n0\r\n\r\n", "400 invalid chunk size"},
		{"7.1", "size beyond 64 bits", chunk + "fffffffffffffffff\r\nabc\r\n", "400 invalid chunk size"},
		{"7.1", "bare LF after the size", chunk + "3\nabc\r\n0\r\n\r\n", "400 bare LF"},
		{"7.1", "bare CR after the size", chunk + "3\rabc\r\n0\r\n\r\n", "400 bare CR"},
		{"7.1", "bare LF after the data", chunk + "3\r\nabc\n0\r\n\r\n", "400 chunk data without CR LF"},
		{"7.1", "more data than the size", chunk + "3\r\nabcd\r\n0\r\n\r\n", "400 chunk data without CR LF"},
		{"7.1", "less data than the size", chunk + "4\r\nabc\r\n0\r\n\r\n", "400 chunk data without CR LF"},
		{"7.1", "bare LF in the end", chunk + "0\r\n\n", "400 bare LF"},
		{"7.1.1", "extension", chunk + "3;a\r\nabc\r\n0;b=c\r\n\r\n", "POST a / 1.1 -1 body=abc"},
		{"7.1.1", "extensions, white space, quotes", chunk + "3 ; a = \"x;\\\"\r\" \r\nabc\r\n0\r\n\r\n", "400 invalid chunk extension"},
		{"7.1.1", "quoted value", chunk + "3;a=\"x;\\\"=\";b=c\r\nabc\r\n0\r\n\r\n", "POST a / 1.1 -1 body=abc"},
		{"7.1.1", "white space around", chunk + "3 ;\ta\t= b ; c\r\nabc\r\n0\r\n\r\n", "POST a / 1.1 -1 body=abc"},
		{"7.1.1", "no name", chunk + "3;\r\nabc\r\n0\r\n\r\n", "400 invalid chunk extension"},
		{"7.1.1", "no value", chunk + "3;a=\r\nabc\r\n0\r\n\r\n", "400 invalid chunk extension"},
		{"7.1.1", "bare LF in an extension", chunk + "3;a\nbc\r\n0\r\n\r\n", "400 bare LF"},
		{"7.1.1", "bare LF in a quoted value", chunk + "3;a=\"\n\"\r\nabc\r\n0\r\n\r\n", "400 bare LF"},
		{"7.1.1", "open quote", chunk + "3;a=\"x\r\nabc\r\n0\r\n\r\n", "400 invalid chunk extension"},
		{"7.1.1", "too many", chunk + "1;" + strings.Repeat("x", maxExtensionsPerBody+1) + "\r\na\r\n0\r\n\r\n", "400 too many chunk extensions"},
		{"7.1.2", "trailers", chunk + "0\r\nX: y\r\nZ: w\r\n\r\n", "POST a / 1.1 -1 trailers=X=y;Z=w;"},
		{"7.1.2", "folded trailer", chunk + "0\r\nX: y\r\n z\r\n\r\n", "400 folded header line"},
		{"7.1.2", "space before a trailer's colon", chunk + "0\r\nX : y\r\n\r\n", "400 space before a colon"},
		{"9110-6.5.1", "Content-Length as trailer", chunk + "0\r\nContent-Length: 3\r\n\r\n", "400 forbidden trailer field"},
		{"9110-6.5.1", "Transfer-Encoding as trailer", chunk + "0\r\nTransfer-Encoding: chunked\r\n\r\n", "400 forbidden trailer field"},
		{"9110-6.5.1", "Host as trailer", chunk + "0\r\nHost: b\r\n\r\n", "400 forbidden trailer field"},
		{"9110-6.5.1", "Connection as trailer", chunk + "0\r\nConnection: close\r\n\r\n", "400 forbidden trailer field"},

		// Bounds.
		{"3", "long request line", "GET /" + strings.Repeat("x", 70<<10) + " HTTP/1.1\r\n" + host + end, "414 request line too long"},
		{"9110-5.4", "large field", get + "X: " + strings.Repeat("x", 70<<10) + "\r\n\r\n", "431 header section too large"},
		{"9110-5.4", "many fields", get + strings.Repeat("X: y\r\n", 128) + end, "431 too many header fields"},
		{"9110-5.4", "as many fields as are allowed", get + strings.Repeat("X: y\r\n", 127) + end, "GET a / 1.1 0"},
		{"7.1.2", "large trailers", chunk + "0\r\nX: " + strings.Repeat("x", 70<<10) + "\r\n\r\n", "431 header section too large"},
		{"7.1.2", "many trailers", chunk + "0\r\n" + strings.Repeat("X: y\r\n", 129) + end, "431 too many header fields"},

		// 8, 9.3.2, 11.2: what is cut off, and smuggled requests.
		{"8", "connection ends in the head", "GET / HTTP/1.1\r\nHo", "400 connection ended inside a request head"},
		{"11.2", "CL.TE", post + "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG", "400 Content-Length and Transfer-Encoding"},
		{"11.2", "TE.CL", post + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n5c\r\nGPOST / HTTP/1.1\r\n\r\n0\r\n\r\n", "400 Content-Length and Transfer-Encoding"},
		{"11.2", "TE.TE", post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n\r\n0\r\n\r\n", "400 more than one Transfer-Encoding"},
		{"11.2", "Transfer-Encoding hidden by a name", post + "Transfer-Encoding[: chunked\r\nContent-Length: 1\r\n\r\nx", "400 invalid field name"},
		{"11.2", "Content-Length nominated by Connection", post + "Connection: Content-Length\r\nContent-Length: 3\r\n\r\nabc", "POST a / 1.1 3 body=abc"},
	} {
		t.Run(tt.clause+" "+tt.name, func(t *testing.T) {
			if got := verdict(t, tt.in); got != tt.want {
				t.Errorf("%.200q\ngot  %s\nwant %s", tt.in, got, tt.want)
			}
		})
	}
}

// verdict is what a server makes of bytes that are all a client sends.
func verdict(t testing.TB, in string) string {
	v := serve(t, Config{}, nil)
	v.put(in)
	_ = v.client.CloseWrite()
	v.loop.Run(t)
	if len(v.refused) > 0 {
		out := v.take()
		status, _, _ := strings.Cut(strings.TrimPrefix(out, "HTTP/1.1 "), " ")
		if !strings.Contains(out, "\r\nConnection: close\r\n\r\n") || !v.client.EOF() {
			return "not closed after " + out
		}
		for _, l := range v.logs {
			if !l.aborted {
				return "refused, but the request goes on"
			}
		}
		return status + " " + v.refused[0]
	}
	if len(v.logs) != 1 {
		return fmt.Sprintf("%d requests", len(v.logs))
	}
	l := v.logs[0]
	h := l.head
	version := map[message.Version]string{message.HTTP10: "1.0", message.HTTP11: "1.1"}[h.Version]
	s := fmt.Sprintf("%s %s %s %s %d", h.Method, h.Authority, h.Path, version, h.ContentLength)
	switch h.Form {
	case message.Absolute:
		s += " absolute"
	case message.Authority:
		s += " authority"
	case message.Asterisk:
		s += " asterisk"
	}
	if len(l.body) > 0 {
		s += " body=" + string(l.body)
	}
	if last := l.events[len(l.events)-1]; strings.HasPrefix(last, "trailers ") {
		s += " trailers=" + strings.TrimPrefix(last, "trailers ")
	}
	if !l.ended && h.Method != "CONNECT" {
		s += " unfinished"
	}
	return s
}
