package control_test

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	queryapi "github.com/tunmesh/tunmesh/api/query"
	tapapi "github.com/tunmesh/tunmesh/api/tap"
	"github.com/tunmesh/tunmesh/control/controltest"
)

// A pod's connections are what its sidecar says, the oldest first, and with the
// names of pods.
func TestConnections(t *testing.T) {
	p := controltest.Start(t, nil, shop)
	proxy, commands := attach(t, p, inShop("web-1", "10.1.0.1", "web"))
	closed := closedPods(p)
	q := queryapi.NewQueryClient(p.Ask())
	for pod, want := range closed {
		if _, err := q.Connections(ctx(t), &queryapi.ConnectionsRequest{Namespace: "shop", Pod: pod}); status.Code(err) != want {
			t.Errorf("%s: %v, want %v", pod, err, want)
		}
	}
	answer := func(list ...*tapapi.Connection) (*queryapi.ConnectionsResponse, error) {
		t.Helper()
		type said struct {
			r   *queryapi.ConnectionsResponse
			err error
		}
		got := make(chan said, 1)
		go func() {
			for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
				r, err := q.Connections(ctx(t), &queryapi.ConnectionsRequest{Namespace: "shop", Pod: "web-1", Limit: 9})
				if status.Code(err) != codes.FailedPrecondition || time.Now().After(end) { // else it has yet to attach
					got <- said{r, err}
					return
				}
			}
		}()
		c := command(t, commands)
		if c.GetAsk().GetLimit() != 9 || c.GetTap() != 0 {
			t.Fatalf("command %v", c)
		}
		if err := proxy.Send(&tapapi.FromProxy{Message: &tapapi.FromProxy_Connections{Connections: &tapapi.Connections{Id: c.GetAsk().GetId(), Connections: list, Total: 12}}}); err != nil {
			t.Fatal(err)
		}
		s := <-got
		return s.r, s.err
	}
	r, err := answer(&tapapi.Connection{Remote: "192.0.2.1:443", AgeUs: 5}, &tapapi.Connection{Remote: "10.1.0.2:8080", AgeUs: 70}, &tapapi.Connection{Remote: "forged", AgeUs: 6})
	if err != nil || r.GetTotal() != 12 || len(r.GetRows()) != 3 {
		t.Fatalf("%v %v", r, err)
	}
	for i, want := range []struct {
		peer string
		age  uint64
	}{{"shop/plain-1", 70}, {"", 6}, {"", 5}} {
		if x := r.GetRows()[i]; x.GetPeer() != want.peer || x.GetConnection().GetAgeUs() != want.age {
			t.Errorf("row %d: %v", i, x)
		}
	}
	if r, err := answer(); err != nil || len(r.GetRows()) != 0 {
		t.Errorf("%v %v", r, err)
	}
}
