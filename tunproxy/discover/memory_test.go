package discover

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	destapi "github.com/tunmesh/tunmesh/api/destination"
	"github.com/tunmesh/tunmesh/tunproxy/rpc/wire"
)

// TestMemory: what is kept of 10,000 endpoints, as a control plane tells them, is
// small, and so is what is thrown away on the way there; all of them replaced by
// others, a hundred at a time, they take no more.
func TestMemory(t *testing.T) {
	const n = 10_000
	one := func(i int) *destapi.Endpoint {
		return &destapi.Endpoint{
			Address: fmt.Sprintf("10.%d.%d.%d:8080", i>>16, i>>8&255, i&255), Weight: 10000, Zone: "zone-a", Identity: "spiffe://cluster.local/ns/prod/sa/api",
			Labels: map[string]string{"pod": fmt.Sprintf("api-6fe9973c83-%05d", i), "deployment": "api", "namespace": "prod", "serviceaccount": "api"},
		}
	}
	marshal := func(u *destapi.Update) []byte {
		b, err := proto.Marshal(u)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	m := &destapi.Target{Kind: destapi.Kind_SERVICE, Ref: &destapi.Ref{Kind: "Service", Namespace: "prod", Name: "api", Port: 80}}
	for i := range n {
		m.Endpoints = append(m.Endpoints, one(i))
	}
	b := marshal(&destapi.Update{Version: 1, Change: &destapi.Update_Target{Target: m}})
	m = nil
	memory := func() (live, total int64) {
		runtime.GC()
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return int64(s.HeapAlloc), int64(s.TotalAlloc)
	}
	before, total := memory()
	var r reader
	var u wire.Update
	if err := u.Decode(b); err != nil {
		t.Fatal(err)
	}
	s, err := r.snapshot(netip.MustParseAddrPort("10.96.0.1:80"), u.Target)
	if err != nil {
		t.Fatal(err)
	}
	u = wire.Update{}
	live, all := memory()
	t.Logf("an endpoint: %d bytes on the wire, %d kept, %d allocated meanwhile", len(b)/n, (live-before)/n, (all-total)/n)
	if each := (live - before) / n; each > 128 {
		t.Errorf("%d bytes are kept of an endpoint", each)
	}
	if each := (all - total) / n; each > 400 {
		t.Errorf("%d bytes are allocated for an endpoint", each)
	}

	const step = 100
	for i := n; i < 2*n; i += step {
		d := &destapi.EndpointDelta{}
		for j := range step {
			d.Put = append(d.Put, one(i+j))
			d.Remove = append(d.Remove, one(i+j-n).GetAddress())
		}
		if err := u.Decode(marshal(&destapi.Update{Version: 2, Change: &destapi.Update_Delta{Delta: d}})); err != nil {
			t.Fatal(err)
		}
		if s, err = r.apply(s, netip.MustParseAddrPort("10.96.0.1:80"), u.Delta); err != nil {
			t.Fatal(err)
		}
	}
	u = wire.Update{}
	later, _ := memory()
	t.Logf("after all were replaced: %d kept", (later-before)/n)
	if len(s.Endpoints) != n || later-before > (live-before)*11/10 {
		t.Errorf("%d endpoints take %d bytes each, %d before", len(s.Endpoints), (later-before)/n, (live-before)/n)
	}
	runtime.KeepAlive(s)
	runtime.KeepAlive(b)
}

// TestMessagesAreLetGo: nothing of a message is kept that was taken in, nor of one
// that was refused.
func TestMessagesAreLetGo(t *testing.T) {
	good := &destapi.Endpoint{Address: "10.0.0.1:80", Weight: 1, Zone: "zone-a", Identity: "spiffe://cluster.local/ns/prod/sa/api", Labels: map[string]string{"pod": "api-0"}}
	bad := proto.CloneOf(good)
	bad.Weight = 0
	var r reader
	var kept []*Snapshot
	for _, e := range []*destapi.Endpoint{good, bad} {
		freed := make(chan struct{})
		func() {
			b, err := proto.Marshal(&destapi.Update{Version: 1, Change: &destapi.Update_Target{Target: &destapi.Target{
				Kind: destapi.Kind_SERVICE, Authority: "api.prod:80", Labels: map[string]string{"service": "api"}, Endpoints: []*destapi.Endpoint{e},
			}}})
			if err != nil {
				t.Fatal(err)
			}
			b = append(make([]byte, 0, 1<<10), b...) // an object of its own
			runtime.AddCleanup(&b[0], func(c chan struct{}) { close(c) }, freed)
			var u wire.Update
			if err := u.Decode(b); err != nil {
				t.Fatal(err)
			}
			s, err := r.snapshot(netip.MustParseAddrPort("10.96.0.1:80"), u.Target)
			if (err == nil) != (e == good) {
				t.Fatalf("weight %d: %v", e.GetWeight(), err)
			}
			kept = append(kept, s)
		}()
		for deadline := time.Now().Add(10 * time.Second); ; {
			runtime.GC()
			select {
			case <-freed:
			case <-time.After(10 * time.Millisecond):
				if time.Now().Before(deadline) {
					continue
				}
				t.Errorf("weight %d: the message is kept", e.GetWeight())
			}
			break
		}
	}
	if len(kept[0].Endpoints) != 1 || kept[0].Endpoints[0].Labels()["pod"] != "api-0" {
		t.Errorf("%+v", kept[0])
	}
	runtime.KeepAlive(&r)
}
