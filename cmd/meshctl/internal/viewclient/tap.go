package viewclient

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/api/tap"
	"github.com/tunmesh/tunmesh/control/extension"
)

// maxLine bounds one message: an event has at most 96 KiB, which JSON may make
// four times as long.
const maxLine = 1 << 20

// Tap implements query.QueryClient. The stream ends with ctx.
func (c *Client) Tap(ctx context.Context, req *query.TapRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[query.TapMessage], error) {
	p, err := path(req.GetResource())
	if err != nil {
		return nil, err
	}
	body := proto.CloneOf(req)
	body.Resource = nil // the path says it
	raw, err := protojson.Marshal(body)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "write the request: %v", err)
	}
	r := c.rest.Post().AbsPath(extension.Base, "watch", p, "tap").SetHeader("Content-Type", "application/json").SetHeader("Accept", "application/json").Body(raw)
	if l := req.GetResource().GetLabelSelector(); l != "" {
		r.Param("labelSelector", l)
	}
	answer, err := r.Stream(ctx)
	if err != nil {
		return nil, statusOf(err, []byte("{"))
	}
	return newStream(ctx, answer, func(line []byte) (*query.TapMessage, error) {
		m := &query.TapMessage{}
		return m, decode(line, m)
	}), nil
}

// Capture implements query.QueryClient. The stream ends with ctx.
func (c *Client) Capture(ctx context.Context, req *query.CaptureRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[tap.Packets], error) {
	p, err := path(&query.Selector{Kind: "pod", Namespace: req.GetNamespace(), Name: req.GetPod()})
	if err != nil {
		return nil, err
	}
	raw, err := protojson.Marshal(&query.CaptureRequest{SnapLength: req.GetSnapLength()}) // the path says the rest
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "write the request: %v", err)
	}
	answer, err := c.rest.Post().AbsPath(extension.Base, "watch", p, "pcap").SetHeader("Content-Type", "application/json").SetHeader("Accept", "application/json").Body(raw).Stream(ctx)
	if err != nil {
		return nil, statusOf(err, []byte("{"))
	}
	return newStream(ctx, answer, func(line []byte) (*tap.Packets, error) {
		m := &tap.Packets{}
		return m, decode(line, m)
	}), nil
}

// stream is a stream of messages, a JSON document to a line.
type stream[M any] struct {
	grpc.ClientStream // nil: only Recv is ever called
	ctx               context.Context
	body              io.ReadCloser
	lines             *bufio.Scanner
	decode            func(line []byte) (*M, error)
}

func newStream[M any](ctx context.Context, body io.ReadCloser, decode func([]byte) (*M, error)) *stream[M] {
	t := &stream[M]{ctx: ctx, body: body, lines: bufio.NewScanner(body), decode: decode}
	t.lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	return t
}

// Recv returns the next message; io.EOF after the last.
func (t *stream[M]) Recv() (*M, error) {
	if t.lines.Scan() {
		return t.decode(t.lines.Bytes())
	}
	err := t.lines.Err()
	err = errors.Join(err, t.body.Close())
	switch {
	case t.ctx.Err() != nil:
		return nil, status.FromContextError(t.ctx.Err()).Err()
	case err != nil:
		return nil, status.Errorf(codes.Unavailable, "the stream was cut off: %v", err)
	}
	return nil, io.EOF
}

// decode reads a message, or the Status that says why there are no more.
func decode(line []byte, m proto.Message) error {
	if bytes.HasPrefix(line, []byte(`{"kind":"Status"`)) {
		var s metav1.Status
		if json.Unmarshal(line, &s) == nil {
			return status.Error(codes.Unavailable, s.Message)
		}
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(line, m); err != nil {
		return status.Errorf(codes.Internal, "read a message: %v", err)
	}
	return nil
}
