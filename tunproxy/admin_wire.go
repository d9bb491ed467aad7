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
	head  bool   // HEAD: no body in the answer
	reply *reply // that is being sent; nil: none
	piece []byte // of it, to send next
}

// pieceSize is how much of an answer is given to the connection at a time, at most:
// the text of all metrics would otherwise be made, and copied, as a whole, while
// traffic waits.
const pieceSize = 16 << 10

// Head implements message.Receiver.
func (r *adminStream) Head(s message.Stream, h *message.Head, end bool) {
	r.q.Method = h.Method
	r.q.Path, r.q.Query, _ = strings.Cut(h.Path, "?")
	r.head = h.Method == "HEAD"
	for i := range h.Fields {
		switch f := &h.Fields[i]; {
		case strings.EqualFold(f.Name, "accept"):
			r.q.Accept = list(r.q.Accept, f.Value)
		case strings.EqualFold(f.Name, "accept-encoding"):
			r.q.Encoding = list(r.q.Encoding, f.Value)
		}
	}
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
		Status: a.Status, Reason: statusText(a.Status), Version: message.HTTP11, ContentLength: -1,
		Fields: []message.Field{{Name: "content-type", Value: a.Type}},
	}
	if a.Coding != "" {
		h.Fields = append(h.Fields, message.Field{Name: "content-encoding", Value: a.Coding})
	}
	if a.Pages == nil {
		h.ContentLength = int64(len(a.Body))
		h.Fields = append(h.Fields, message.Field{Name: "content-length", Value: strconv.Itoa(len(a.Body))})
	}
	if r.head || a.Pages == nil && len(a.Body) == 0 {
		s.SendHead(h, true)
		return
	}
	s.SendHead(h, false)
	r.reply, r.piece = &a, a.next()
	r.send(s)
}

// send gives the next piece. Whether it is the last is known when there is no
// other.
func (r *adminStream) send(s message.Stream) {
	if r.reply == nil {
		return
	}
	piece := r.piece
	r.piece = r.reply.next()
	last := r.piece == nil
	if last {
		r.reply = nil
	}
	s.SendData(piece, last)
}

var _ message.Receiver = (*adminStream)(nil)
