package discover

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"google.golang.org/protobuf/proto"

	destapi "github.com/tunmesh/tunmesh/api/destination"
	"github.com/tunmesh/tunmesh/tunproxy/rpc/wire"
)

// TestMemory: what is kept of 10,000 endpoints, as a control plane tells them, is
// small.
func TestMemory(t *testing.T) {
	const n = 10_000
	m := &destapi.Target{Kind: destapi.Kind_SERVICE, Ref: &destapi.Ref{Kind: "Service", Namespace: "prod", Name: "api", Port: 80}}
	for i := range n {
		m.Endpoints = append(m.Endpoints, &destapi.Endpoint{
			Address: fmt.Sprintf("10.%d.%d.%d:8080", i>>16, i>>8&255, i&255), Weight: 10000, Zone: "zone-a", Identity: "spiffe://cluster.local/ns/prod/sa/api",
			Labels: map[string]string{"pod": fmt.Sprintf("api-6fe9973c83-%05d", i), "deployment": "api", "namespace": "prod", "serviceaccount": "api"},
		})
	}
	b, err := proto.Marshal(&destapi.Update{Version: 1, Change: &destapi.Update_Target{Target: m}})
	if err != nil {
		t.Fatal(err)
	}
	m = nil
	heap := func() int64 {
		runtime.GC()
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return int64(s.HeapAlloc)
	}
	before := heap()
	var u wire.Update
	if err := u.Decode(b); err != nil {
		t.Fatal(err)
	}
	s, err := snapshot(netip.MustParseAddrPort("10.96.0.1:80"), u.Target)
	if err != nil {
		t.Fatal(err)
	}
	u = wire.Update{}
	each := (heap() - before) / n
	t.Logf("%d bytes an endpoint, of %d on the wire", each, len(b)/n)
	if each > 1200 {
		t.Errorf("%d bytes an endpoint", each)
	}
	runtime.KeepAlive(s)
	runtime.KeepAlive(b)
}
