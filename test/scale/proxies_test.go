package scale_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	randv2 "math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"

	destinationapi "github.com/tunmesh/tunmesh/api/destination"
	identityapi "github.com/tunmesh/tunmesh/api/identity"
	policyapi "github.com/tunmesh/tunmesh/api/policy"
	tapapi "github.com/tunmesh/tunmesh/api/tap"
)

// slowProxy is a sidecar that reads a little now and then. It hears late, and
// nobody else does because of it.
const (
	slowProxy = 0
	slowRead  = 128 // bytes
	slowPause = 200 * time.Millisecond
)

// counted counts the bytes of a connection that were read.
type counted struct {
	net.Conn
	n    *atomic.Int64
	slow *atomic.Bool // nil: never
}

func (c counted) Read(p []byte) (int, error) {
	if c.slow != nil && c.slow.Load() {
		time.Sleep(slowPause)
		p = p[:min(len(p), slowRead)]
	}
	n, err := c.Conn.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// proxies are the simulated sidecars. Each has a connection of its own and the
// streams that a sidecar has: one for each target, its policy, the trust anchors,
// and tap.
type proxies struct {
	t      *testing.T
	addr   string
	anchor *x509.Certificate
	cert   atomic.Pointer[tls.Certificate]
	size
	bytes atomic.Int64
	told  atomic.Int64 // updates

	mu      sync.Mutex
	watch   map[int][]*target // by Service
	slow    atomic.Bool       // slowProxy is
	missing atomic.Int64      // targets whose whole state has not come on the current connection
	failed  atomic.Pointer[error]
}

// target is one watch.
type target struct {
	proxy   int
	service int
	told    atomic.Int64 // Unix ns of the last update
	number  atomic.Int64 // of updates
	streams atomic.Int64 // that began
	ready   atomic.Int64 // endpoints, as told last
}

func (p *proxies) tls() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(p.anchor)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, //nolint:gosec // the name is an identity
		VerifyConnection: func(s tls.ConnectionState) error {
			chain := x509.NewCertPool()
			for _, c := range s.PeerCertificates[1:] {
				chain.AddCert(c)
			}
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool, Intermediates: chain})
			return err
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if c := p.cert.Load(); c != nil {
				return c, nil
			}
			return &tls.Certificate{}, nil
		},
	}
}

// dial makes a connection; slow, which may be nil, says when it reads slowly.
func (p *proxies) dial(slow *atomic.Bool) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+p.addr, grpc.WithTransportCredentials(credentials.NewTLS(p.tls())),
		grpc.WithReadBufferSize(4<<10), grpc.WithWriteBufferSize(4<<10), grpc.WithSharedWriteBuffer(true),
		// As the sidecars do: soon, and spread.
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 2, Jitter: 0.5, MaxDelay: 2 * time.Second}, MinConnectTimeout: 5 * time.Second}),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
			return counted{c, &p.bytes, slow}, err
		}))
}

// certify gets the certificate that all share: they are of one service account.
func (p *proxies) certify(ctx context.Context, token string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		URIs: []*url.URL{{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/" + namespace + "/sa/" + account}},
	}, key)
	if err != nil {
		return err
	}
	conn, err := p.dial(nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	resp, err := identityapi.NewIdentityClient(conn).Certify(ctx, &identityapi.CertifyRequest{Csr: csr, Token: token}, grpc.WaitForReady(true))
	if err != nil {
		return fmt.Errorf("certify: %w", err)
	}
	p.cert.Store(&tls.Certificate{Certificate: resp.GetChain(), PrivateKey: key})
	return nil
}

// run keeps all sidecars connected until ctx ends.
func (p *proxies) run(ctx context.Context) {
	p.watch = map[int][]*target{}
	p.missing.Store(int64(p.size.proxies * p.size.targets))
	var wg sync.WaitGroup
	random := randv2.New(randv2.NewPCG(1, 2)) //nolint:gosec // the same each time
	for i := range p.size.proxies {
		var own []*target
		for _, s := range random.Perm(p.services)[:p.size.targets] {
			t := &target{proxy: i, service: s}
			own = append(own, t)
			p.watch[s] = append(p.watch[s], t)
		}
		wg.Go(func() { p.one(ctx, i, own) })
	}
	wg.Wait()
}

// one is a sidecar.
func (p *proxies) one(ctx context.Context, i int, own []*target) {
	var slow *atomic.Bool
	if i == slowProxy {
		slow = &p.slow
	}
	conn, err := p.dial(slow)
	if err != nil {
		p.fail(err)
		return
	}
	defer conn.Close()
	pod := namespace + "/" + podName(i)
	var wg sync.WaitGroup
	stay := func(f func() error) {
		wg.Go(func() {
			for ctx.Err() == nil {
				_ = f() // the control plane goes and comes
				sleep(ctx, 50*time.Millisecond+time.Duration(randv2.Int64N(int64(100*time.Millisecond))))
			}
		})
	}
	for _, t := range own {
		stay(func() error { return p.follow(ctx, conn, pod, t) })
	}
	stay(func() error {
		s, err := policyapi.NewPolicyClient(conn).Watch(ctx, &policyapi.WatchRequest{Pod: pod}, grpc.WaitForReady(true))
		return drain(s, err)
	})
	stay(func() error {
		s, err := identityapi.NewIdentityClient(conn).WatchTrust(ctx, &identityapi.WatchTrustRequest{}, grpc.WaitForReady(true))
		return drain(s, err)
	})
	stay(func() error {
		s, err := tapapi.NewTapClient(conn).Attach(ctx, grpc.WaitForReady(true))
		if err == nil {
			err = s.Send(&tapapi.FromProxy{Message: &tapapi.FromProxy_Hello{Hello: &tapapi.Hello{Pod: pod}}})
		}
		return drain(s, err)
	})
	wg.Wait()
}

type receiver[M any] interface{ Recv() (*M, error) }

func drain[M any](s receiver[M], err error) error {
	for err == nil {
		_, err = s.Recv()
	}
	return err
}

// follow is one watch, until it breaks.
func (p *proxies) follow(ctx context.Context, conn *grpc.ClientConn, pod string, t *target) error {
	at := netip.AddrPortFrom(clusterIP(t.service), port).String()
	s, err := destinationapi.NewDestinationClient(conn).Watch(ctx, &destinationapi.WatchRequest{Target: at, Pod: pod}, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	t.streams.Add(1)
	whole := false
	defer func() {
		if whole {
			p.missing.Add(1)
		}
	}()
	for {
		u, err := s.Recv()
		if err != nil {
			return err
		}
		now := time.Now().UnixNano()
		p.told.Add(1)
		// A change takes an endpoint away or gives it back.
		t.ready.Add(int64(len(u.GetDelta().GetPut()) - len(u.GetDelta().GetRemove())))
		if g := u.GetTarget(); g != nil {
			t.ready.Store(int64(len(g.GetEndpoints())))
			if n := len(g.GetEndpoints()); n != p.perService && n != p.perService-1 {
				p.fail(fmt.Errorf("target %s has %d endpoints, want %d or one less", at, n, p.perService))
			}
			if !whole {
				whole = true
				p.missing.Add(-1)
			}
		}
		t.told.Store(now)
		t.number.Add(1)
	}
}

func (p *proxies) fail(err error) { p.failed.CompareAndSwap(nil, &err) }

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// until waits for a condition.
func until(ctx context.Context, what string, cond func() bool) error {
	for !cond() {
		if ctx.Err() != nil {
			return errors.New("not in time: " + what)
		}
		sleep(ctx, 2*time.Millisecond)
	}
	return nil
}
