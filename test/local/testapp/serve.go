package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// Ports of the server.
const (
	portHTTP   = 8080
	portGRPC   = 8081
	portTLS    = 8443
	portEcho   = 7000 // echoes bytes
	portUpload = 7001 // reads to the end, then answers size, checksum, peer
	portPeer   = 7002 // writes the peer's address and closes
	portSMTP   = 2525 // greets first
	portSSH    = 2222 // greets first
	portSend   = 7003 // reads a size line, writes so many bytes, closes
	portUDP    = 5353
)

// grace is how long a server that was told to end finishes what it has begun.
const grace = 5 * time.Second

func serveCommand() *cobra.Command {
	var delay time.Duration
	c := &cobra.Command{
		Use: "serve", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return serve(cmd.Context(), delay) },
	}
	c.Flags().DurationVar(&delay, "delay", 0, "wait so long before each HTTP and gRPC answer")
	return c
}

func serve(ctx context.Context, delay time.Duration) error {
	g, ctx := errgroup.WithContext(ctx)
	for port, f := range map[int]func(net.Conn){
		portEcho: echo, portUpload: upload, portPeer: whoami,
		portSMTP: greet("220 mail.test ESMTP ready\r\n"), portSSH: greet("SSH-2.0-testapp\r\n"), portSend: send,
	} {
		g.Go(func() error { return listen(ctx, port, f) })
	}
	g.Go(func() error { return serveHTTP(ctx, portHTTP, nil, delay) })
	cert, err := selfSigned()
	if err != nil {
		return err
	}
	g.Go(func() error {
		return serveHTTP(ctx, portTLS, &tls.Config{Certificates: []tls.Certificate{cert}}, delay)
	})
	g.Go(func() error { return serveGRPC(ctx, delay) })
	g.Go(func() error { return serveUDP(ctx) })
	return g.Wait()
}

func listen(ctx context.Context, port int, f func(net.Conn)) error {
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		go func() {
			defer c.Close()
			f(c)
		}()
	}
}

func echo(c net.Conn) { _, _ = io.Copy(c, c) }

func upload(c net.Conn) {
	h := sha256.New()
	n, err := io.Copy(h, c)
	fmt.Fprintf(c, "%d %x %s %v\n", n, h.Sum(nil), c.RemoteAddr(), err)
}

func whoami(c net.Conn) { fmt.Fprintln(c, c.RemoteAddr()) }

// greet speaks first, then answers each line.
func greet(banner string) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = io.WriteString(c, banner)
		for s := bufio.NewScanner(c); s.Scan(); {
			fmt.Fprintf(c, "250 %s\r\n", s.Text())
		}
	}
}

func send(c net.Conn) {
	var n int64
	if _, err := fmt.Fscanln(c, &n); err != nil {
		return
	}
	h := sha256.New()
	_, _ = io.CopyN(io.MultiWriter(c, h), pattern(), n)
}

func serveHTTP(ctx context.Context, port int, conf *tls.Config, delay time.Duration) error {
	host, _ := os.Hostname()
	s := &http.Server{
		Addr: fmt.Sprintf(":%d", port), TLSConfig: conf, ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(delay)
			if d, err := time.ParseDuration(r.FormValue("delay")); err == nil {
				time.Sleep(d)
			}
			w.Header().Set("Content-Type", "application/json")
			if code, err := strconv.Atoi(r.FormValue("status")); err == nil {
				w.WriteHeader(code)
			}
			n, _ := io.Copy(io.Discard, r.Body)
			fmt.Fprintf(w, `{"pod":%q,"peer":%q,"proto":%q,"path":%q,"host":%q,"body":%d}`+"\n", host, r.RemoteAddr, r.Proto, r.URL.RequestURI(), r.Host, n)
		}),
	}
	s.Protocols = new(http.Protocols)
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	ended := make(chan error, 1)
	go func() {
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		ended <- s.Shutdown(ctx)
	}()
	var err error
	if conf != nil {
		err = s.ListenAndServeTLS("", "")
	} else {
		err = s.ListenAndServe()
	}
	if errors.Is(err, http.ErrServerClosed) {
		return <-ended
	}
	return err
}

type health struct {
	healthpb.UnimplementedHealthServer
	host  string
	delay time.Duration
}

func (h *health) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	time.Sleep(h.delay)
	from := ""
	if p, ok := peer.FromContext(ctx); ok {
		from = p.Addr.String()
	}
	_ = grpc.SetHeader(ctx, metadata.Pairs("pod", h.host, "peer", from))
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
}

func serveGRPC(ctx context.Context, delay time.Duration) error {
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", portGRPC))
	if err != nil {
		return err
	}
	host, _ := os.Hostname()
	s := grpc.NewServer()
	healthpb.RegisterHealthServer(s, &health{host: host, delay: delay})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-ctx.Done()
		defer time.AfterFunc(grace, s.Stop).Stop()
		s.GracefulStop()
	}()
	if err := s.Serve(l); err != nil {
		return err
	}
	<-ended
	return nil
}

func serveUDP(ctx context.Context) error {
	c, err := net.ListenPacket("udp", fmt.Sprintf(":%d", portUDP))
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { c.Close() })()
	b := make([]byte, 65536)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		_, _ = c.WriteTo(append([]byte(from.String()+" "), b[:n]...), from)
	}
}

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"testapp"}}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	slog.Info("serving")
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// pattern is an endless stream that is not compressible at a glance.
func pattern() io.Reader { return &patternReader{state: 0x9e3779b97f4a7c15} }

type patternReader struct{ state uint64 }

func (p *patternReader) Read(b []byte) (int, error) {
	for i := range b {
		if i%8 == 0 {
			p.state ^= p.state << 13
			p.state ^= p.state >> 7
			p.state ^= p.state << 17
		}
		b[i] = byte(p.state >> (8 * (uint(i) % 8)))
	}
	return len(b), nil
}
