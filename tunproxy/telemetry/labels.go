package telemetry

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tunmesh/tunmesh/tunproxy/flow"
)

// Labels describe who talks to whom. Zero fields are not printed.
type Labels struct {
	Direction flow.Direction
	// Target is where the connection leads: the original destination of an
	// inbound one, the endpoint of an outbound one.
	Target netip.AddrPort
	// Peer is the far end on the wire: tls, no_tls_reason, client_id or
	// server_id, sni.
	Peer flow.Peer
	// Authority is the target's name for outbound, the request's for inbound.
	Authority string
	// Dst are labels of target and endpoint; "dst_" is put before names that
	// lack it. For equal names the later map wins.
	Dst []map[string]string
	// Server is the policy object that applies to the port, Route its rule that took
	// the request; Authz is what allowed the client.
	Server Server
	Route  Ref
	Authz  Authz
}

// Server names a policy's server: srv_group, srv_kind, srv_name, srv_port.
type Server struct {
	Group, Kind, Name string
	Port              uint16
}

// Authz names an authorization: authz_group, authz_kind, authz_name.
type Authz struct{ Group, Kind, Name string }

// append renders l in Linkerd's order. peer is the label of a transport's end
// ("src" or "dst"), or "".
func (l *Labels) append(b []byte, peer string) []byte {
	b = appendLabel(b, "direction", l.Direction.String())
	if peer != "" {
		b = appendLabel(b, "peer", peer)
	}
	if l.Authority != "" {
		b = appendLabel(b, "authority", l.Authority)
	}
	b = l.appendTarget(b)
	b = l.appendTLS(b)
	b = appendSet(b, "srv_", l.Server.Group, l.Server.Kind, l.Server.Name)
	if l.Server.Port != 0 {
		b = appendLabel(b, "srv_port", strconv.Itoa(int(l.Server.Port)))
	}
	b = appendSet(b, "route_", l.Route.Group, l.Route.Kind, l.Route.Name)
	b = appendSet(b, "authz_", l.Authz.Group, l.Authz.Kind, l.Authz.Name)
	return l.appendDst(b)
}

// appendTarget adds to labels of which there are some.
func (l *Labels) appendTarget(b []byte) []byte {
	if !l.Target.IsValid() {
		return b
	}
	b = append(b, `,target_addr="`...)
	b = l.Target.AppendTo(b)
	b = append(b, `",target_ip="`...)
	b = l.Target.Addr().AppendTo(b)
	b = append(b, `",target_port="`...)
	b = strconv.AppendUint(b, uint64(l.Target.Port()), 10)
	return append(b, '"')
}

func (l *Labels) appendTLS(b []byte) []byte {
	b = appendLabel(b, "tls", l.Peer.TLSLabel())
	switch l.Peer.Security {
	case flow.Mutual:
		name := "server_id"
		if l.Direction == flow.Inbound {
			name = "client_id"
		}
		b = appendLabel(b, name, l.Peer.ID.ServerName())
	case flow.Passthrough:
		b = appendLabel(b, "sni", l.Peer.SNI)
	case flow.NoTLS:
		if l.Peer.Reason != flow.NoReason {
			b = appendLabel(b, "no_tls_reason", l.Peer.Reason.String())
		}
	}
	return b
}

func appendSet(b []byte, prefix, group, kind, name string) []byte {
	if kind == "" && name == "" {
		return b
	}
	b = appendLabel(b, prefix+"group", group)
	b = appendLabel(b, prefix+"kind", kind)
	return appendLabel(b, prefix+"name", name)
}

func (l *Labels) appendDst(b []byte) []byte {
	type pair struct{ name, value string }
	var pairs [16]pair
	all := pairs[:0]
	for _, m := range l.Dst {
		for k, v := range m {
			name := labelName(k)
			if !strings.HasPrefix(name, "dst_") {
				name = "dst_" + name
			}
			if i := slices.IndexFunc(all, func(p pair) bool { return p.name == name }); i >= 0 {
				all[i].value = v
				continue
			}
			all = append(all, pair{name, v})
		}
	}
	slices.SortFunc(all, func(x, y pair) int { return strings.Compare(x.name, y.name) })
	for _, p := range all {
		b = appendLabel(b, p.name, p.value)
	}
	return b
}
