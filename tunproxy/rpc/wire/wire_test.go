package wire_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	destination "github.com/tunmesh/tunmesh/api/destination"
	identity "github.com/tunmesh/tunmesh/api/identity"
	policy "github.com/tunmesh/tunmesh/api/policy"
	tap "github.com/tunmesh/tunmesh/api/tap"
	"github.com/tunmesh/tunmesh/tunproxy/rpc/wire"
)

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func same(t *testing.T, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// What the generated code writes, ours reads.

func TestDecodeUpdate(t *testing.T) {
	var u wire.Update
	if err := u.Decode(marshal(t, &destination.Update{Version: 7, Change: &destination.Update_Target{Target: &destination.Target{
		Kind: destination.Kind_SERVICE, Protocol: destination.Protocol_HTTP2, Authority: "a.b:1",
		Ref:    &destination.Ref{Kind: "Service", Namespace: "ns", Name: "n", Port: 80},
		Labels: map[string]string{"service": "n", "namespace": "ns"},
		Traffic: &destination.Traffic{
			Timeouts: &destination.Timeouts{RequestMs: 1, ResponseMs: 2, IdleMs: 3},
			Retry: &destination.Retry{
				Statuses: []*destination.StatusRange{{First: 500, Last: 599}, {}}, Codes: []uint32{1, 14}, Limit: 2, TimeoutMs: 3,
				Backoff: &destination.Backoff{MinMs: 25, MaxMs: 250, Jitter: 0.5}, Budget: &destination.RetryBudget{Percent: 20, PerSecond: 10, WindowMs: 9},
			},
			Accrual: &destination.Accrual{
				Consecutive: 7, Backoff: &destination.Backoff{MaxMs: 1}, Rate: &destination.SuccessRate{Threshold: 0.8, WindowMs: 10, MinRequests: 5}, RetryAfter: true,
			},
			Penalty: &destination.Penalty{TimeMs: 1, MaxRetryAfterMs: 2},
		},
		Endpoints: []*destination.Endpoint{
			{Address: "10.0.0.1:80", Weight: 10000, Zone: "z", Identity: "spiffe://x", Protocol: destination.Protocol_OPAQUE, Labels: map[string]string{"pod": "p", "empty": ""}},
			{},
		},
	}}})); err != nil {
		t.Fatal(err)
	}
	endpoints(t, u.Target.Endpoints,
		wire.Endpoint{Address: []byte("10.0.0.1:80"), Weight: 10000, Zone: []byte("z"), Identity: []byte("spiffe://x"), Protocol: 1, Labels: []wire.Label{
			{Name: []byte("empty"), Value: []byte{}}, {Name: []byte("pod"), Value: []byte("p")},
		}},
		wire.Endpoint{})
	u.Target.Endpoints = nil
	same(t, u, wire.Update{Version: 7, Target: &wire.Target{
		Kind: wire.KindService, Protocol: 3, Authority: "a.b:1", Ref: wire.Ref{Kind: "Service", Namespace: "ns", Name: "n", Port: 80},
		Labels: map[string]string{"service": "n", "namespace": "ns"},
		Traffic: &wire.Traffic{
			Timeouts: wire.Timeouts{RequestMS: 1, ResponseMS: 2, IdleMS: 3},
			Retry: &wire.Retry{
				Statuses: []wire.StatusRange{{First: 500, Last: 599}, {}}, Codes: []uint32{1, 14}, Limit: 2, TimeoutMS: 3,
				Backoff: wire.Backoff{MinMS: 25, MaxMS: 250, Jitter: 0.5}, Budget: &wire.RetryBudget{Percent: 20, PerSecond: 10, WindowMS: 9},
			},
			Accrual: &wire.Accrual{
				Consecutive: 7, Backoff: wire.Backoff{MaxMS: 1}, Rate: &wire.SuccessRate{Threshold: 0.8, WindowMS: 10, MinRequests: 5}, RetryAfter: true,
			},
			Penalty: &wire.Penalty{TimeMS: 1, MaxRetryAfterMS: 2},
		},
	}})
	if err := u.Decode(marshal(t, &destination.Update{Version: 8, Change: &destination.Update_Delta{Delta: &destination.EndpointDelta{
		Put: []*destination.Endpoint{{Address: "[::1]:2", Weight: 1}}, Remove: []string{"1.2.3.4:5", "x"},
	}}})); err != nil {
		t.Fatal(err)
	}
	endpoints(t, u.Delta.Put, wire.Endpoint{Address: []byte("[::1]:2"), Weight: 1})
	u.Delta.Put = nil
	same(t, u, wire.Update{Version: 8, Delta: &wire.EndpointDelta{Remove: []string{"1.2.3.4:5", "x"}}})
	if err := u.Decode(marshal(t, &destination.Update{})); err != nil {
		t.Fatal(err)
	}
	same(t, u, wire.Update{})
	// The enums' numbers are the same.
	for k, n := range map[wire.Kind]destination.Kind{
		wire.KindUnspecified: destination.Kind_KIND_UNSPECIFIED, wire.KindService: destination.Kind_SERVICE, wire.KindPod: destination.Kind_POD,
		wire.KindExternal: destination.Kind_EXTERNAL, wire.KindNone: destination.Kind_NONE,
	} {
		if uint32(k) != uint32(n) {
			t.Errorf("%v is %d, not %d", n, k, n)
		}
	}
}

// endpoints compares encoded ones, which may name their labels in any order.
func endpoints(t *testing.T, got wire.Endpoints, want ...wire.Endpoint) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d endpoints, want %d", len(got), len(want))
	}
	var m wire.Endpoint
	for i := range got {
		if err := m.Decode(got[i]); err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(m.Labels, func(a, b wire.Label) int { return bytes.Compare(a.Name, b.Name) })
		m.Labels = append([]wire.Label{}, m.Labels...)
		want[i].Labels = append([]wire.Label{}, want[i].Labels...)
		same(t, m, want[i])
	}
}

func TestDecodePolicy(t *testing.T) {
	var p wire.InboundPolicy
	if err := p.Decode(marshal(t, &policy.InboundPolicy{
		Version: 3, Default: policy.Default_AUDIT, ClusterNetworks: []string{"10.0.0.0/8", "fd00::/8"},
		Probes: []*policy.Probe{{Port: 8080, Method: "GET", Path: "/live?x"}, {Port: 9}},
		Ports:  []*policy.PortProtocol{{First: 1, Last: 2, Protocol: 1}},
		Labels: map[string]string{"pod": "p"},
	})); err != nil {
		t.Fatal(err)
	}
	same(t, p, wire.InboundPolicy{
		Version: 3, Default: 6, ClusterNetworks: []string{"10.0.0.0/8", "fd00::/8"},
		Probes: []wire.Probe{{Port: 8080, Method: "GET", Path: "/live?x"}, {Port: 9}},
		Ports:  []wire.PortProtocol{{First: 1, Last: 2, Protocol: 1}}, Labels: map[string]string{"pod": "p"},
	})
}

func TestDecodeIdentity(t *testing.T) {
	var c wire.CertifyResponse
	if err := c.Decode(marshal(t, &identity.CertifyResponse{Chain: [][]byte{{1}, {2, 3}}, Anchors: [][]byte{{4}}, NotAfterUnix: -5, Generation: 1 << 63})); err != nil {
		t.Fatal(err)
	}
	same(t, c, wire.CertifyResponse{Chain: [][]byte{{1}, {2, 3}}, Anchors: [][]byte{{4}}, NotAfterUnix: -5, Generation: 1 << 63})
	var b wire.TrustBundle
	if err := b.Decode(marshal(t, &identity.TrustBundle{Anchors: [][]byte{{4}, {}}, Generation: 2})); err != nil {
		t.Fatal(err)
	}
	same(t, b, wire.TrustBundle{Anchors: [][]byte{{4}, {}}, Generation: 2})
}

func TestDecodeCommand(t *testing.T) {
	var c wire.Command
	for _, want := range []wire.Command{
		{Tap: 9, MaxRPS: 100, Headers: true, Match: &wire.Match{Method: "GET", Scheme: "http", Authority: "a", PathPrefix: "/p", Peers: []string{"1.2.3.4", "::1"}, Direction: "in"}},
		{Tap: 9, Match: &wire.Match{}},
		{Tap: 9},
		{Ask: &wire.Ask{ID: 3, Limit: 100}},
	} {
		m := &tap.Command{Tap: want.Tap, MaxRps: want.MaxRPS, Headers: want.Headers}
		if w := want.Match; w != nil {
			m.Match = &tap.Match{Method: w.Method, Scheme: w.Scheme, Authority: w.Authority, PathPrefix: w.PathPrefix, Peers: w.Peers, Direction: w.Direction}
		}
		if q := want.Ask; q != nil {
			m.Ask = &tap.Ask{Id: q.ID, Limit: q.Limit}
		}
		if err := c.Decode(marshal(t, m)); err != nil {
			t.Fatal(err)
		}
		same(t, c, want)
	}
}

// What ours writes, the generated code reads.

func TestEncodeRequests(t *testing.T) {
	for _, c := range []struct {
		b    []byte
		into proto.Message
		want proto.Message
	}{
		{(&wire.CertifyRequest{CSR: []byte{1, 2}, Token: "tok"}).Append(nil), &identity.CertifyRequest{}, &identity.CertifyRequest{Csr: []byte{1, 2}, Token: "tok"}},
		{(&wire.WatchTarget{Target: "10.0.0.1:80", Pod: "a/b"}).Append(nil), &destination.WatchRequest{}, &destination.WatchRequest{Target: "10.0.0.1:80", Pod: "a/b"}},
		{(&wire.WatchPolicy{Pod: "a/b"}).Append(nil), &policy.WatchRequest{}, &policy.WatchRequest{Pod: "a/b"}},
		{(&wire.FromProxy{Hello: &wire.Hello{Pod: "a/b"}}).Append(nil), &tap.FromProxy{}, &tap.FromProxy{Message: &tap.FromProxy_Hello{Hello: &tap.Hello{Pod: "a/b"}}}},
		{(&wire.FromProxy{Connections: &wire.Connections{ID: 7, Total: 300, More: true, Connections: []wire.Connection{{}, {
			Direction: "inbound", Protocol: "http/2", Local: "10.0.0.1:80", Remote: "[::1]:4", AgeUS: 1, BytesIn: 2, BytesOut: 3, RTTUS: 4,
			Retransmits: 5, Timeouts: 6, OutOfOrder: 7, ZeroWindows: 8, Dropped: 1 << 40, Labels: map[string]string{"tls": "true"},
		}}}}).Append(nil), &tap.FromProxy{}, &tap.FromProxy{Message: &tap.FromProxy_Connections{Connections: &tap.Connections{Id: 7, Total: 300, More: true, Connections: []*tap.Connection{{}, {
			Direction: "inbound", Protocol: "http/2", Local: "10.0.0.1:80", Remote: "[::1]:4", AgeUs: 1, BytesIn: 2, BytesOut: 3, RttUs: 4,
			Retransmits: 5, Timeouts: 6, OutOfOrder: 7, ZeroWindows: 8, Dropped: 1 << 40, Labels: map[string]string{"tls": "true"},
		}}}}}},
		{(&wire.FromProxy{Lost: &wire.Lost{Tap: 1, Events: 300}}).Append(nil), &tap.FromProxy{}, &tap.FromProxy{Message: &tap.FromProxy_Lost{Lost: &tap.Lost{Tap: 1, Events: 300}}}},
	} {
		if err := proto.Unmarshal(c.b, c.into); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(c.into, c.want) {
			t.Errorf("got  %v\nwant %v", c.into, c.want)
		}
	}
}

func event(phase int) (*wire.Event, *tap.Event) {
	long := strings.Repeat("x", 300) // a length of two bytes
	zero, one := uint32(0), uint32(1)
	labels := map[string]string{"pod": "p", "long": long}
	e := &wire.Event{
		Tap: 1, Base: 2, Stream: 3, Direction: "out", TLS: "true", Route: map[string]string{"r": "1"},
		Source:      wire.Peer{IP: "10.0.0.1", Port: 40000, Labels: labels},
		Destination: wire.Peer{IP: "::1"},
	}
	want := &tap.Event{
		Tap: 1, Base: 2, Stream: 3, Direction: "out", Tls: "true", Route: map[string]string{"r": "1"},
		Source:      &tap.Peer{Ip: "10.0.0.1", Port: 40000, Labels: labels},
		Destination: &tap.Peer{Ip: "::1"},
	}
	fields, wantFields := []wire.Field{{Name: "a", Value: []byte{0xff}}, {Name: "b"}}, []*tap.Field{{Name: "a", Value: []byte{0xff}}, {Name: "b"}}
	switch phase {
	case 0:
		e.Request = &wire.Request{Method: "GET", Scheme: "http", Authority: "h", Path: "/" + long + "\xff", Headers: fields}
		want.Phase = &tap.Event_Request{Request: &tap.Request{Method: "GET", Scheme: "http", Authority: "h", Path: "/" + long + "\uFFFD", Headers: wantFields}}
	case 1:
		e.Response = &wire.Response{SinceRequestUS: 1 << 40, Status: 200, Headers: fields}
		want.Phase = &tap.Event_Response{Response: &tap.Response{SinceRequestUs: 1 << 40, Status: 200, Headers: wantFields}}
	case 2:
		e.End = &wire.End{SinceRequestUS: 1, SinceResponseUS: 2, ResponseBytes: 3, GRPCStatus: &zero, Reset: &one, Trailers: fields}
		want.Phase = &tap.Event_End{End: &tap.End{SinceRequestUs: 1, SinceResponseUs: 2, ResponseBytes: 3, GrpcStatus: &zero, Reset_: &one, Trailers: wantFields}}
	case 3:
		e.End = &wire.End{}
		want.Phase = &tap.Event_End{End: &tap.End{}}
	}
	return e, want
}

func TestEncodeEvents(t *testing.T) {
	for phase := range 4 {
		e, want := event(phase)
		var got tap.FromProxy
		if err := proto.Unmarshal((&wire.FromProxy{Event: e}).Append(nil), &got); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(got.GetEvent(), want) {
			t.Errorf("got  %v\nwant %v", got.GetEvent(), want)
		}
	}
}

// The methods' names are the generated code's.
func TestMethods(t *testing.T) {
	for got, want := range map[string]string{
		wire.MethodCertify:     identity.Identity_Certify_FullMethodName,
		wire.MethodWatchTrust:  identity.Identity_WatchTrust_FullMethodName,
		wire.MethodWatchTarget: destination.Destination_Watch_FullMethodName,
		wire.MethodWatchPolicy: policy.Policy_Watch_FullMethodName,
		wire.MethodAttachTap:   tap.Tap_Attach_FullMethodName,
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestMalformed(t *testing.T) {
	for name, b := range map[string][]byte{
		"cut varint":         {0x08},
		"cut bytes":          {0x12, 0x05, 1},
		"endless varint":     {0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01},
		"field zero":         {0x00, 0x01},
		"version as bytes":   {0x0a, 0x00},
		"target as varint":   {0x10, 0x01},
		"nested cut":         {0x12, 0x02, 0x22, 0x05},
		"not utf-8":          {0x12, 0x03, 0x2a, 0x01, 0xff},
		"unknown, cut":       {0x7a, 0x7f},
		"group left open":    {0x7b},
		"label not utf-8":    {0x12, 0x05, 0x32, 0x03, 0x0a, 0x01, 0xff},
		"label key a number": {0x12, 0x04, 0x32, 0x02, 0x08, 0x01},
	} {
		var u wire.Update
		if err := u.Decode(b); err == nil {
			t.Errorf("%s: accepted as %+v", name, u)
		}
	}
	// What a later version adds is no reason to refuse.
	b := append(marshal(t, &destination.Update{Version: 1}), 0xfa, 0x07, 0x01, 0x00, 0x7b, 0x08, 0x01, 0x7c)
	var u wire.Update
	if err := u.Decode(b); err != nil || u.Version != 1 {
		t.Errorf("unknown fields: %+v, %v", u, err)
	}
}

func seed(f *testing.F, msgs ...proto.Message) {
	for _, m := range msgs {
		f.Add(marshal(f, m))
	}
	f.Add([]byte{0x12, 0x02, 0x22, 0x05})
}

// Whatever comes: no panic, and a message that ours takes the generated code
// takes too, with the same content.
func FuzzUpdate(f *testing.F) {
	seed(f, &destination.Update{Version: 2, Change: &destination.Update_Target{Target: &destination.Target{Kind: 1, Endpoints: []*destination.Endpoint{{Address: "a", Labels: map[string]string{"k": "v"}}}}}},
		&destination.Update{Change: &destination.Update_Delta{Delta: &destination.EndpointDelta{Remove: []string{"x"}}}})
	f.Fuzz(func(t *testing.T, b []byte) {
		var ours wire.Update
		var theirs destination.Update
		oe, te := ours.Decode(b), proto.Unmarshal(b, &theirs)
		var put []wire.Endpoint
		for _, all := range lists(&ours) {
			for _, raw := range all {
				var e wire.Endpoint
				oe = errors.Join(oe, e.Decode(raw))
				put = append(put, e)
			}
		}
		if oe == nil && te != nil {
			t.Fatalf("accepted what protobuf refuses: %v", te)
		}
		if oe != nil {
			return // stricter is fine: wrong wire types are unknown fields there
		}
		if ours.Version != theirs.GetVersion() || (ours.Target != nil) != (theirs.GetTarget() != nil) || (ours.Delta != nil) != (theirs.GetDelta() != nil) {
			t.Fatalf("ours %+v, theirs %v", ours, &theirs)
		}
		if tt := theirs.GetTarget(); tt != nil {
			o := ours.Target
			if uint32(o.Kind) != uint32(tt.GetKind()) || o.Authority != tt.GetAuthority() || len(o.Endpoints) != len(tt.GetEndpoints()) ||
				!maps.Equal(o.Labels, tt.GetLabels()) || o.Ref.Name != tt.GetRef().GetName() || o.Ref.Port != tt.GetRef().GetPort() {
				t.Fatalf("ours %+v, theirs %v", o, tt)
			}
			alike(t, put, tt.GetEndpoints())
		}
		if td := theirs.GetDelta(); td != nil {
			if !slices.Equal(ours.Delta.Remove, td.GetRemove()) || len(ours.Delta.Put) != len(td.GetPut()) {
				t.Fatalf("ours %+v, theirs %v", ours.Delta, td)
			}
			alike(t, put, td.GetPut())
		}
	})
}

// lists are the endpoints of an update, encoded.
func lists(u *wire.Update) (all []wire.Endpoints) {
	if u.Target != nil {
		all = append(all, u.Target.Endpoints)
	}
	if u.Delta != nil {
		all = append(all, u.Delta.Put)
	}
	return all
}

func alike(t *testing.T, ours []wire.Endpoint, theirs []*destination.Endpoint) {
	t.Helper()
	for i, e := range ours {
		w := theirs[i]
		labels := map[string]string{}
		for _, l := range e.Labels {
			labels[string(l.Name)] = string(l.Value)
		}
		if string(e.Address) != w.GetAddress() || e.Weight != w.GetWeight() || string(e.Identity) != w.GetIdentity() || string(e.Zone) != w.GetZone() ||
			!maps.Equal(labels, w.GetLabels()) {
			t.Fatalf("ours %+v, theirs %v", e, w)
		}
	}
}

func FuzzOthers(f *testing.F) {
	seed(f, &policy.InboundPolicy{Version: 1, Default: 2, Probes: []*policy.Probe{{Port: 1, Path: "/"}}}, &identity.CertifyResponse{Chain: [][]byte{{1}}},
		&identity.TrustBundle{Anchors: [][]byte{{1}}}, &tap.Command{Tap: 1, Match: &tap.Match{Peers: []string{"a"}}}, &tap.Command{Ask: &tap.Ask{Id: 1, Limit: 2}})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, c := range []struct {
			ours   interface{ Decode([]byte) error }
			theirs proto.Message
		}{
			{&wire.InboundPolicy{}, &policy.InboundPolicy{}},
			{&wire.CertifyResponse{}, &identity.CertifyResponse{}},
			{&wire.TrustBundle{}, &identity.TrustBundle{}},
			{&wire.Command{}, &tap.Command{}},
		} {
			if err := c.ours.Decode(b); err == nil {
				if err := proto.Unmarshal(b, c.theirs); err != nil {
					t.Fatalf("%s: accepted what protobuf refuses: %v", fmt.Sprintf("%T", c.ours), err)
				}
			}
		}
	})
}
