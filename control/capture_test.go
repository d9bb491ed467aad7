package control_test

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	queryapi "github.com/tunmesh/tunmesh/api/query"
	tapapi "github.com/tunmesh/tunmesh/api/tap"
	"github.com/tunmesh/tunmesh/control/controltest"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// closedPods puts pods into whose sidecar nobody can look, and says how each is
// refused.
func closedPods(p *controltest.Plane) map[string]codes.Code {
	plain := inShop("plain-1", "10.1.0.2", "plain")
	plain.Unmeshed = true
	p.PutPod(plain)
	shy := inShop("shy-1", "10.1.0.3", "shy")
	shy.Annotations = map[string]string{annotation.DisableTap: "true"}
	p.PutPod(shy)
	p.PutPod(inShop("lost-1", "10.1.0.4", "lost"))
	p.Settle()
	return map[string]codes.Code{
		"nobody": codes.NotFound, "plain-1": codes.FailedPrecondition,
		"shy-1": codes.FailedPrecondition, "lost-1": codes.FailedPrecondition,
	}
}

// A capture is a command to one sidecar, and its packets go to whoever asked.
func TestCapture(t *testing.T) {
	p := controltest.Start(t, nil, shop)
	proxy, commands := attach(t, p, inShop("web-1", "10.1.0.1", "web"))
	closed := closedPods(p)
	conn := p.Ask()
	q := queryapi.NewQueryClient(conn)
	for pod, want := range closed {
		s, err := q.Capture(ctx(t), &queryapi.CaptureRequest{Namespace: "shop", Pod: pod})
		if err == nil {
			_, err = s.Recv()
		}
		if status.Code(err) != want {
			t.Errorf("%s: %v, want %v", pod, err, want)
		}
	}
	s, err := q.Capture(ctx(t), &queryapi.CaptureRequest{Namespace: "shop", Pod: "web-1", SnapLength: 96})
	if err != nil {
		t.Fatal(err)
	}
	c := command(t, commands)
	if c.GetCapture().GetSnapLength() != 96 || c.GetMatch() != nil || c.GetMaxRps() != 0 {
		t.Fatalf("command %v", c)
	}
	send := func(m *tapapi.Packets) {
		t.Helper()
		if err := proxy.Send(&tapapi.FromProxy{Message: &tapapi.FromProxy_Packets{Packets: m}}); err != nil {
			t.Fatal(err)
		}
	}
	send(&tapapi.Packets{Tap: c.GetTap() + 9, Lost: 1}) // of nobody's
	send(&tapapi.Packets{Tap: c.GetTap(), Connections: 7})
	send(&tapapi.Packets{Tap: c.GetTap(), Lost: 2, Packets: []*tapapi.Packet{{App: true, Length: 4, Data: []byte("abcd")}}})
	send(&tapapi.Packets{Tap: c.GetTap(), Packets: []*tapapi.Packet{{Data: make([]byte, 300<<10)}}}) // longer than any message may be
	send(&tapapi.Packets{Tap: c.GetTap(), Lost: 1})
	if m, err := s.Recv(); err != nil || m.GetConnections() != 7 {
		t.Fatalf("%v %v", m, err)
	}
	lost := uint64(0)
	for lost < 4 {
		m, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		lost += m.GetLost()
		if x := m.GetPackets(); len(x) > 0 && (string(x[0].GetData()) != "abcd" || !x[0].GetApp() || m.GetTap() != 0) {
			t.Errorf("%v", m)
		}
	}
	conn.Close()
	if end := command(t, commands); end.GetTap() != c.GetTap() || end.GetCapture() != nil {
		t.Errorf("at the end: %v", end)
	}
}
