package tunproxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The bounds on questions that come over loopback.
const (
	localConns    = 16      // at once; more wait in the kernel
	localHead     = 8 << 10 // bytes
	localBody     = 4 << 10
	localDeadline = 10 * time.Second
)

// serveLocal answers on listeners of the pod's loopback interface until ctx
// ends. These are kernel sockets: kubelet's port-forward and people inside the
// pod dial them, and traffic to them is nobody's proxied traffic. One goroutine
// for each connection, at most localConns.
func (a *admin) serveLocal(ctx context.Context, listeners []net.Listener, log *slog.Logger) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, localConns)
	for _, l := range listeners {
		stop := context.AfterFunc(ctx, func() { _ = l.Close() })
		defer stop()
		wg.Go(func() { a.acceptLocal(ctx, l, slots, &wg, log) })
	}
	wg.Wait()
}

func (a *admin) acceptLocal(ctx context.Context, l net.Listener, slots chan struct{}, wg *sync.WaitGroup, log *slog.Logger) {
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		c, err := l.Accept()
		if err != nil {
			<-slots
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			log.Warn("accept on the admin port", "error", err)
			select { // out of descriptors, most likely
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				return
			}
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			a.localConn(ctx, c)
		})
	}
}

// localConn answers one question and closes.
func (a *admin) localConn(ctx context.Context, c net.Conn) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = c.SetDeadline(time.Now().Add(localDeadline))
	q, err := readQuestion(c)
	r := text(400, "%v", err)
	if err == nil {
		r = a.answer(q)
	}
	w := bufio.NewWriter(c)
	fmt.Fprintf(w, "HTTP/1.1 %d %s\r\ncontent-type: %s\r\nconnection: close\r\n", r.Status, statusText(r.Status), r.Type)
	if r.Coding != "" {
		fmt.Fprintf(w, "content-encoding: %s\r\n", r.Coding)
	}
	if r.Pages == nil { // else the end of the connection is that of the body
		fmt.Fprintf(w, "content-length: %d\r\n", len(r.Body))
	}
	_, _ = w.WriteString("\r\n")
	for p := r.next(); p != nil && q.Method != "HEAD"; p = r.next() {
		if _, err := w.Write(p); err != nil {
			return
		}
	}
	if w.Flush() != nil || err == nil {
		return
	}
	// Unread bytes would turn the close into a reset and lose the answer.
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	_ = c.SetDeadline(time.Now().Add(time.Second))
	_, _ = io.CopyN(io.Discard, c, 64<<10)
}

// readQuestion reads a request of the plainest kind: a request line, fields of
// which Content-Length and what is acceptable count, and that many bytes.
func readQuestion(r io.Reader) (question, error) {
	q := question{Local: true}
	limited := &io.LimitedReader{R: r, N: localHead}
	br := bufio.NewReaderSize(limited, 1024)
	line, err := readLine(br)
	if err != nil {
		return q, err
	}
	method, rest, ok := strings.Cut(line, " ")
	target, version, ok2 := strings.Cut(rest, " ")
	if !ok || !ok2 || !strings.HasPrefix(version, "HTTP/1.") {
		return q, fmt.Errorf("not a request line: %q", line)
	}
	q.Method = method
	q.Path, q.Query, _ = strings.Cut(target, "?")
	length := 0
	for {
		line, err := readLine(br)
		if err != nil {
			return q, err
		}
		if line == "" {
			break
		}
		name, value, _ := strings.Cut(line, ":")
		switch strings.ToLower(name) {
		case "content-length":
			if length, err = strconv.Atoi(strings.TrimSpace(value)); err != nil || length < 0 || length > localBody {
				return q, fmt.Errorf("content-length %q: want 0 to %d", value, localBody)
			}
		case "accept":
			q.Accept = list(q.Accept, value)
		case "accept-encoding":
			q.Encoding = list(q.Encoding, value)
		case "transfer-encoding":
			return q, errors.New("transfer-encoding is not understood here: send a content-length")
		case "expect":
			return q, errors.New("expect is not understood here")
		}
	}
	limited.N += int64(length)
	q.Body = make([]byte, length)
	if _, err := io.ReadFull(br, q.Body); err != nil {
		return q, fmt.Errorf("read body: %w", err)
	}
	return q, nil
}

// list joins the values of a field that came twice (RFC 9110, section 5.3).
func list(was, more string) string {
	if more = strings.TrimSpace(more); was != "" {
		return was + ", " + more
	}
	return more
}

func readLine(br *bufio.Reader) (string, error) {
	line, err := br.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("read request head of at most %d bytes: %w", localHead, err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}
