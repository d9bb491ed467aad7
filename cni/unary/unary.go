// Package unary makes gRPC's simplest calls, one message each way, by hand: over
// net/http's HTTP/2, with as much of protobuf as they need. It owns the framing
// and refuses to know what is asked, and whom.
//
// Program start counts here: the node agent's program is also the CNI plugin,
// which is run for each pod. Linking gRPC and generated code would make that a
// third slower and take twice the memory.
package unary

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// maxAnswer bounds an answer, as gRPC's own default does.
const maxAnswer = 4 << 20

// Call asks at a URL, "scheme://host/package.Service/Method", over a client that
// speaks HTTP/2: one length-prefixed message each way, the outcome in the trailers.
// broken says that the connection ended before the answer.
func Call(ctx context.Context, client *http.Client, url string, ask Message) (answer Message, broken bool, err error) {
	body := make([]byte, 5, 5+len(ask))
	binary.BigEndian.PutUint32(body[1:], uint32(len(ask)))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(append(body, ask...)))
	if err != nil {
		return nil, false, err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	resp, err := client.Do(req)
	if err != nil {
		return nil, true, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+6))
	if err != nil {
		return nil, true, err
	}
	answer, err = unwrap(resp, raw)
	return answer, false, err
}

func unwrap(resp *http.Response, raw []byte) (Message, error) {
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %s", resp.Status)
	}
	word := func(key string) string { // the trailers may come as the headers, if there is nothing else
		if v := resp.Trailer.Get(key); v != "" {
			return v
		}
		return resp.Header.Get(key)
	}
	if code := word("Grpc-Status"); code != "0" {
		return nil, fmt.Errorf("code %q: %s", code, word("Grpc-Message"))
	}
	if len(raw) < 5 || raw[0] != 0 || len(raw) > maxAnswer+5 || int(binary.BigEndian.Uint32(raw[1:])) != len(raw)-5 {
		return nil, errors.New("the answer is not one plain message")
	}
	return raw[5:], nil
}
