package viewclient

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tunmesh/tunmesh/api/query"
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
	t := &stream{ctx: ctx, body: answer, lines: bufio.NewScanner(answer)}
	t.lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	return t, nil
}

// stream is a stream of messages.
type stream struct {
	grpc.ClientStream // nil: only Recv is ever called
	ctx               context.Context
	body              io.ReadCloser
	lines             *bufio.Scanner
}

// Recv returns the next message; io.EOF after the last.
func (t *stream) Recv() (*query.TapMessage, error) {
	if !t.lines.Scan() {
		err := t.lines.Err()
		err = errors.Join(err, t.body.Close())
		switch {
		case t.ctx.Err() != nil:
			return nil, status.FromContextError(t.ctx.Err()).Err()
		case err != nil:
			return nil, status.Errorf(codes.Unavailable, "the tap was cut off: %v", err)
		}
		return nil, io.EOF
	}
	m := &query.TapMessage{}
	perr := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(t.lines.Bytes(), m)
	if m.GetMessage() == nil {
		var s metav1.Status
		if json.Unmarshal(t.lines.Bytes(), &s) == nil && s.Kind == "Status" {
			return nil, status.Error(codes.Unavailable, s.Message)
		}
	}
	if perr != nil {
		return nil, status.Error(codes.Internal, fmt.Sprintf("read an event: %v", perr))
	}
	return m, nil
}
