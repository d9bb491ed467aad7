package tunproxy

import (
	"log/slog"
	"net/netip"
	"testing"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/tunproxy/discover"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
)

// asked is a SYN whose answer is noted.
type asked struct{ refused bool }

func (a *asked) Client() netip.AddrPort    { return netip.MustParseAddrPort("10.0.0.1:40000") }
func (a *asked) OrigDst() netip.AddrPort   { return netip.MustParseAddrPort("10.0.0.2:80") }
func (a *asked) Accept() (aio.Conn, error) { return nil, aio.ErrClosed }
func (a *asked) Refuse()                   { a.refused = true }

// toAdmin is a SYN for the admin port.
type toAdmin struct {
	asked
	conn aio.Conn
}

func (a *toAdmin) OrigDst() netip.AddrPort   { return netip.MustParseAddrPort("10.0.0.2:4191") }
func (a *toAdmin) Accept() (aio.Conn, error) { return a.conn, nil }

// nobodySays is a control plane that is not there.
type nobodySays struct{ Control }

func (nobodySays) Policy() *discover.Policy { return nil }

func (nobodySays) Lookup(aio.Loop, netip.AddrPort, func(*discover.Target, error)) func() {
	return func() {}
}

func undecidedWorker(loop *aiotest.Loop) *worker {
	return newWorker(&Proxy{cfg: Config{Control: nobodySays{}, Metrics: telemetry.New(telemetry.Config{}, "test"), Logger: slog.New(slog.DiscardHandler)}}, loop)
}

func TestAClientDoesNotWaitForeverForAPolicy(t *testing.T) {
	loop := aiotest.NewLoop()
	w := undecidedWorker(loop)
	syn := &asked{}
	w.inbound(syn)
	loop.Advance(t, policyWait-1)
	w.policyChanged()
	if syn.refused || len(w.unjudged) != 1 {
		t.Fatalf("refused %v, %d wait", syn.refused, len(w.unjudged))
	}
	loop.Advance(t, 1)
	if !syn.refused || len(w.unjudged) != 0 {
		t.Fatalf("refused %v, %d wait", syn.refused, len(w.unjudged))
	}
}

// A probe that ran out of time ends its connection without a word, and so may
// anybody who reaches the pod.
func TestAClientOfTheAdminPortEndsWithoutAWord(t *testing.T) {
	loop := aiotest.NewLoop()
	client, c := aiotest.Pipe(loop, 0)
	undecidedWorker(loop).inbound(&toAdmin{conn: c})
	client.Close()
	loop.Run(t)
	loop.Advance(t, 2*clientHelloWait)
	if !c.IsClosed() {
		t.Error("its connection is kept")
	}
}
