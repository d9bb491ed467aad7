package wire_test

import (
	"testing"

	"google.golang.org/protobuf/proto"

	tap "github.com/tunmesh/tunmesh/api/tap"
	"github.com/tunmesh/tunmesh/tunproxy/rpc/wire"
)

func TestCapture(t *testing.T) {
	var c wire.Command
	for _, m := range []*tap.Command{{Tap: 3, Capture: &tap.Capture{SnapLength: 96}}, {Tap: 3, Capture: &tap.Capture{}}, {Tap: 3}} {
		if err := c.Decode(marshal(t, m)); err != nil {
			t.Fatal(err)
		}
		want := wire.Command{Tap: 3}
		if m.GetCapture() != nil {
			want.Capture = &wire.Capture{SnapLength: m.GetCapture().GetSnapLength()}
		}
		same(t, c, want)
	}
	m := wire.FromProxy{Packets: &wire.Packets{Tap: 1, Lost: 2, Connections: 3, Packets: []wire.Packet{
		{UnixNano: 1e18, App: true, Length: 9, Data: []byte("ab")}, {UnixNano: -1, Sent: true, Length: 1, Data: []byte{0}}, {},
	}}}
	var got tap.FromProxy
	if err := proto.Unmarshal(m.Append(nil), &got); err != nil {
		t.Fatal(err)
	}
	want := &tap.FromProxy{Message: &tap.FromProxy_Packets{Packets: &tap.Packets{Tap: 1, Lost: 2, Connections: 3, Packets: []*tap.Packet{
		{UnixNano: 1e18, App: true, Length: 9, Data: []byte("ab")}, {UnixNano: -1, Sent: true, Length: 1, Data: []byte{0}}, {},
	}}}}
	if !proto.Equal(&got, want) {
		t.Errorf("%v, want %v", &got, want)
	}
}
