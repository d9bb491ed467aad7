package tunproxy

import (
	"strconv"
	"strings"

	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// Serve answers one request that came over the wire, on any HTTP connection. It
// fits as the accept function of a server connection.
func (a *admin) Serve(s message.Stream) {
	r := &adminStream{admin: a}
	s.SetReceiver(r)
}

// adminStream waits for a request to end and answers it.
type adminStream struct {
	admin *admin
	q     question
	head  bool     // HEAD: no body in the answer
	rest  [][]byte // of the answer's body
}

// pieceSize is how much of an answer is given to the connection at a time, at most:
// the text of all metrics would otherwise be copied as a whole.
const pieceSize = 16 << 10

// Head implements message.Receiver.
func (r *adminStream) Head(s message.Stream, h *message.Head, end bool) {
	r.q.Method = h.Method
	r.q.Path, r.q.Query, _ = strings.Cut(h.Path, "?")
	r.head = h.Method == "HEAD"
	if end {
		r.answer(s)
	}
}

// Data implements message.Receiver: no question on the wire has a body that matters.
func (r *adminStream) Data(s message.Stream, p []byte, end bool) {
	s.Consumed(len(p))
	if end {
		r.answer(s)
	}
}

// Trailers implements message.Receiver.
func (r *adminStream) Trailers(s message.Stream, _ []message.Field) { r.answer(s) }

// Drained implements message.Receiver.
func (r *adminStream) Drained(s message.Stream, _ int) { r.send(s) }

// Aborted implements message.Receiver.
func (r *adminStream) Aborted(message.Stream, message.Code, error) {}

func (r *adminStream) answer(s message.Stream) {
	a := r.admin.answer(r.q)
	h := &message.Head{
		Status: a.Status, Reason: statusText(a.Status), Version: message.HTTP11,
		ContentLength: int64(a.size()),
		Fields: []message.Field{
			{Name: "content-type", Value: a.Type},
			{Name: "content-length", Value: strconv.Itoa(a.size())},
		},
	}
	if r.head || a.size() == 0 {
		s.SendHead(h, true)
		return
	}
	s.SendHead(h, false)
	r.rest = a.Body
	r.send(s)
}

// send gives the next piece.
func (r *adminStream) send(s message.Stream) {
	if len(r.rest) == 0 {
		return
	}
	piece := r.rest[0]
	if len(piece) > pieceSize {
		r.rest[0] = piece[pieceSize:]
		piece = piece[:pieceSize]
	} else {
		r.rest[0] = nil // it is as large as its sender is slow
		r.rest = r.rest[1:]
	}
	s.SendData(piece, len(r.rest) == 0)
}

var _ message.Receiver = (*adminStream)(nil)
