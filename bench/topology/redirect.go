package topology

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/internal/nettest"
)

// PeerMark is the socket mark by which a redirected peer's own connections are
// told from the application's; so is PeerUID, for peers that cannot mark.
const (
	PeerMark = 2102
	PeerUID  = 2102
)

// Redirect makes the kernel hand all TCP connections from s to dst to a port of
// s, as sidecars have it that are not in the packets' way. What carries PeerMark
// or belongs to PeerUID passes.
func Redirect(s *nettest.Space, dst netip.Addr, port uint16) error {
	return redirect(s, "out", nftables.ChainHookOutput, func(c *nftables.Conn, ch *nftables.Chain) {
		passOwn(c, ch)
		c.AddRule(&nftables.Rule{Table: ch.Table, Chain: ch, Exprs: slices.Concat(tcp(), destination(dst), to(port))})
	})
}

// RedirectOut is Redirect for some ports of dst, each with a port of s of its own.
func RedirectOut(s *nettest.Space, dst netip.Addr, ports map[uint16]uint16) error {
	return redirect(s, "out", nftables.ChainHookOutput, func(c *nftables.Conn, ch *nftables.Chain) {
		passOwn(c, ch)
		for from, at := range ports {
			c.AddRule(&nftables.Rule{Table: ch.Table, Chain: ch, Exprs: slices.Concat(tcp(), destination(dst), port(from), to(at))})
		}
	})
}

// RedirectIn hands connections that arrive in s at some ports to others of s.
func RedirectIn(s *nettest.Space, ports map[uint16]uint16) error {
	return redirect(s, "in", nftables.ChainHookPrerouting, func(c *nftables.Conn, ch *nftables.Chain) {
		for from, at := range ports {
			c.AddRule(&nftables.Rule{Table: ch.Table, Chain: ch, Exprs: slices.Concat(tcp(), port(from), to(at))})
		}
	})
}

func redirect(s *nettest.Space, name string, hook *nftables.ChainHook, rules func(*nftables.Conn, *nftables.Chain)) error {
	return s.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return fmt.Errorf("open nftables: %w", err)
		}
		t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "bench"})
		ch := c.AddChain(&nftables.Chain{Name: name, Table: t, Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: nftables.ChainPriorityNATDest})
		rules(c, ch)
		if err := c.Flush(); err != nil {
			return fmt.Errorf("redirect with nftables: %w", err)
		}
		return nil
	})
}

func passOwn(c *nftables.Conn, ch *nftables.Chain) {
	for key, own := range map[expr.MetaKey]uint32{expr.MetaKeyMARK: PeerMark, expr.MetaKeySKUID: PeerUID} {
		c.AddRule(&nftables.Rule{Table: ch.Table, Chain: ch, Exprs: []expr.Any{
			&expr.Meta{Key: key, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(own)},
			&expr.Verdict{Kind: expr.VerdictReturn},
		}})
	}
}

func tcp() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}}}
}

func destination(a netip.Addr) []expr.Any {
	addr := a.As4()
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: addr[:]},
	}
}

func port(p uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, p)},
	}
}

func to(p uint16) []expr.Any {
	return []expr.Any{&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, p)}, &expr.Redir{RegisterProtoMin: 1}}
}
