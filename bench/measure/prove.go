package measure

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/bench/load"
	"github.com/tunmesh/tunmesh/bench/peer"
	"github.com/tunmesh/tunmesh/bench/proc"
	"github.com/tunmesh/tunmesh/bench/topology"
	"github.com/tunmesh/tunmesh/internal/nettest"
)

// within bounds one thing that is tried.
const within = 2 * time.Second

// prove shows that a peer does what it is measured for, and says what was shown:
// every kind of work comes back; what travels is encrypted, or not, as it should
// be; with a pair, nothing comes back while either half stands still; and at the
// server of a pair with mTLS, who cannot prove himself gets nothing.
func prove(bridge *topology.Bridge, stranger *nettest.Space, p *peer.Peer) ([]string, error) {
	var said []string
	canary := []byte("canary-" + strings.ToLower(rand.Text()))
	sniffer, err := topology.NewSniffer(bridge.Space)
	if err != nil {
		return nil, err
	}
	kinds := kindsOf(p)
	for _, k := range kinds {
		if err = eventually(func() error { return echoes(p.From, k, p.At(k), canary) }); err != nil {
			err = fmt.Errorf("%s does not come back: %w", k, err)
			break
		}
	}
	sniffer.Close()
	if err != nil {
		return nil, err
	}
	said = append(said, fmt.Sprintf("%v come back", kinds))
	saw, tls := sniffer.Saw(canary), sniffer.Saw([]byte{23, 3, 3})
	switch {
	case p.MTLS && (saw || !tls):
		return nil, fmt.Errorf("between the pods: canary seen %v, TLS seen %v: it is not encrypted", saw, tls)
	case !p.MTLS && !saw:
		return nil, errors.New("the canary is not seen between the pods: nothing is measured there")
	case p.MTLS:
		said = append(said, "TLS records between the pods, the canary never")
	default:
		said = append(said, "the canary is readable between the pods")
	}
	for _, s := range p.Pair {
		if err := carries(p, s, kinds[0], canary); err != nil {
			return nil, err
		}
	}
	if len(p.Pair) > 0 {
		said = append(said, "nothing comes back while either half of the pair is stopped")
	}
	if p.MTLS {
		if p.Meet != nil {
			p.Meet(stranger)
		}
		var g errgroup.Group
		for _, k := range kinds {
			g.Go(func() error { return refuses(stranger, k, netip.AddrPortFrom(p.ServerAddr, peer.Kinds()[k]), canary) })
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
		said = append(said, "plain text and TLS without a certificate get nothing from the server's side")
	}
	return said, nil
}

// kindsOf lists what a peer carries.
func kindsOf(p *peer.Peer) (kinds []load.Kind) {
	for _, k := range []load.Kind{load.Echo, load.ServeH1, load.ServeH2} {
		if p.Cannot[k] == "" {
			kinds = append(kinds, k)
		}
	}
	return kinds
}

func eventually(try func() error) error {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := try()
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

// carries stops one half of a pair: then nothing may come back.
func carries(p *peer.Peer, s peer.Sidecar, k load.Kind, canary []byte) error {
	pids := proc.Tree(s.PID()) // some have workers
	signal := func(sig unix.Signal) error {
		for _, pid := range pids {
			if err := unix.Kill(pid, sig); err != nil {
				return fmt.Errorf("signal the %s's side: %w", s.Side, err)
			}
		}
		return nil
	}
	if err := signal(unix.SIGSTOP); err != nil {
		return err
	}
	// A signal is not there at once: what runs on another processor goes on until it is.
	err := eventually(func() error {
		for _, pid := range pids {
			if !proc.Stopped(pid) {
				return fmt.Errorf("process %d of the %s's side does not stop", pid, s.Side)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = echoesWithin(p.From, k, p.At(k), canary, 300*time.Millisecond)
	if cont := signal(unix.SIGCONT); cont != nil {
		return cont
	}
	if err == nil {
		return fmt.Errorf("the %s's side is stopped and %s still comes back: it is not in the way", s.Side, k)
	}
	return eventually(func() error { return echoes(p.From, k, p.At(k), canary) })
}

func echoes(from *nettest.Space, k load.Kind, to netip.AddrPort, canary []byte) error {
	return echoesWithin(from, k, to, canary, within)
}

func echoesWithin(from *nettest.Space, k load.Kind, to netip.AddrPort, canary []byte, d time.Duration) error {
	dial := func(ctx context.Context, _, _ string) (c net.Conn, err error) {
		err = from.Do(func() (err error) {
			c, err = new(net.Dialer).DialContext(ctx, "tcp", to.String())
			return err
		})
		return c, err
	}
	return ask(dial, k, canary, d)
}

type dialer func(ctx context.Context, network, addr string) (net.Conn, error)

// ask sends the canary in the manner of a kind, and wants it back.
func ask(dial dialer, k load.Kind, canary []byte, d time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	if k == load.Echo {
		return askBytes(ctx, dial, canary)
	}
	t := &http.Transport{DialContext: dial, Protocols: new(http.Protocols)}
	defer t.CloseIdleConnections()
	t.Protocols.SetHTTP1(k == load.ServeH1)
	t.Protocols.SetUnencryptedHTTP2(k == load.ServeH2)
	url, method := "http://bench/64?"+string(canary), http.MethodGet
	var body io.Reader
	if k == load.ServeH2 {
		url, method, body = "http://http2.bench/", http.MethodPost, bytes.NewReader(canary)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %w", resp.Status, errors.Join(err, errNotBack))
	}
	if !bytes.Contains(append(got, resp.Header.Get("X-Echo")...), canary) {
		return errNotBack
	}
	return nil
}

var errNotBack = errors.New("the canary is not in the answer")

func askBytes(ctx context.Context, dial dialer, canary []byte) error {
	c, err := dial(ctx, "tcp", "")
	if err != nil {
		return err
	}
	defer c.Close()
	end, _ := ctx.Deadline()
	_ = c.SetDeadline(end)
	if _, err := c.Write(canary); err != nil {
		return err
	}
	got := make([]byte, len(canary))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(got, canary) {
		return errNotBack
	}
	return nil
}

// refuses tries as a host without a certificate, in plain text and with TLS.
func refuses(stranger *nettest.Space, k load.Kind, to netip.AddrPort, canary []byte) error {
	plain := func(ctx context.Context, _, _ string) (c net.Conn, err error) {
		err = stranger.Do(func() (err error) {
			c, err = new(net.Dialer).DialContext(ctx, "tcp", to.String())
			return err
		})
		return c, err
	}
	var g errgroup.Group
	g.Go(func() error {
		if ask(plain, k, canary, within/2) == nil {
			return fmt.Errorf("%s answers a stranger in plain text", k)
		}
		return nil
	})
	for _, alpn := range [][]string{nil, {"h2"}, {"http/1.1"}, {"tunmesh-http/1"}, {"tunmesh-tcp/2"}} {
		secured := func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := plain(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			t := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: alpn, MinVersion: tls.VersionTLS13}) //nolint:gosec // a stranger's
			if err := t.HandshakeContext(ctx); err != nil {
				_ = c.Close()
				return nil, err
			}
			return t, nil
		}
		g.Go(func() error {
			if ask(secured, k, canary, within/2) == nil {
				return fmt.Errorf("%s answers a stranger without a certificate, ALPN %v", k, alpn)
			}
			return nil
		})
	}
	return g.Wait()
}
