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

// nobodySays is a control plane that is not there.
type nobodySays struct{ Control }

func (nobodySays) Policy() *discover.Policy { return nil }

func TestAClientDoesNotWaitForeverForAPolicy(t *testing.T) {
	loop := aiotest.NewLoop()
	w := newWorker(&Proxy{cfg: Config{Control: nobodySays{}, Metrics: telemetry.New(telemetry.Config{}, "test"), Logger: slog.New(slog.DiscardHandler)}}, loop)
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
