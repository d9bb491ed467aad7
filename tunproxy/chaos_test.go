package tunproxy_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/hop"
	"github.com/tunmesh/tunmesh/tunproxy/resilience"
)

// chaosTime is how long the test of chaos runs, unless TUNPROXY_CHAOS says
// otherwise ("10m").
const chaosTime = 6 * time.Second

// victim is an endpoint that things happen to.
type victim struct {
	*pod
	at    string // "IP:port=name"
	mood  atomic.Int32
	asked atomic.Int64
}

// The moods of a victim.
const (
	healthy int32 = iota
	slow
	erring
	aborting
)

func (v *victim) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	v.asked.Add(1)
	switch v.mood.Load() {
	case slow:
		select {
		case <-time.After(2 * time.Second):
		case <-r.Context().Done():
		}
	case erring:
		rw.WriteHeader(500 + rand.IntN(5))
		return
	case aborting:
		panic(http.ErrAbortHandler)
	}
	_, _ = io.WriteString(rw, v.name)
}

// chaos is a Service whose endpoints are killed, added, slowed and made to fail.
type chaos struct {
	t       *testing.T
	w       *world
	policy  resilience.Policy
	victims []*victim
	born    int
	dead    []*victim // killed, and the control plane does not know yet
}

const chaosVIP = "10.96.0.1:80"

// bear adds an endpoint.
func (c *chaos) bear() {
	c.born++
	v := &victim{}
	name, addr := fmt.Sprintf("v%d", c.born), fmt.Sprintf("10.1.%d.%d", c.born/200, 1+c.born%200)
	v.pod = c.w.pod(name, addr)
	v.at = addr + ":80=" + name
	v.serveHTTP(80, v.ServeHTTP)
	c.victims = append(c.victims, v)
}

// tell says who is there.
func (c *chaos) tell() {
	var all []string
	for _, v := range append(append([]*victim(nil), c.victims...), c.dead...) {
		all = append(all, v.at)
	}
	c.w.careful(chaosVIP, c.policy, all...)
}

// strike does something bad to somebody; two endpoints are always well.
func (c *chaos) strike() (what string) {
	v := c.victims[rand.IntN(len(c.victims))]
	well := 0
	for _, o := range c.victims {
		if o != v && o.mood.Load() == healthy {
			well++
		}
	}
	switch n := rand.IntN(8); {
	case well < 2 || n < 3:
		v.mood.Store(healthy)
		return "heal"
	case n < 6:
		v.mood.Store(int32(n - 2))
		return [...]string{"slow", "err", "abort"}[n-3]
	case n == 6 && len(c.dead) == 0:
		// Its packets vanish; the control plane says so at the next strike.
		c.w.sever(netip.MustParseAddrPort(v.up()).Addr(), true)
		c.dead = append(c.dead, v)
		c.victims = slicesWithout(c.victims, v)
		c.bear()
		c.tell()
		return "kill"
	default:
		for _, d := range c.dead {
			d.kill()
		}
		c.dead = nil
		c.tell()
		return "bury"
	}
}

func (v *victim) up() string {
	addr, _, _ := cut(v.at)
	return addr
}

func slicesWithout(all []*victim, v *victim) (out []*victim) {
	for _, o := range all {
		if o != v {
			out = append(out, o)
		}
	}
	return out
}

// With retries no request fails, whatever happens to endpoints, as long as some
// are well.
func TestChaosWithRetries(t *testing.T) {
	d := chaosTime
	if s := os.Getenv("TUNPROXY_CHAOS"); s != "" {
		var err error
		if d, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	w := newWorld(t)
	a := w.pod("a", "10.0.0.1")
	r := retrying(8)
	r.Timeout = 250 * time.Millisecond
	r.Budget = resilience.BudgetPolicy{}
	c := &chaos{t: t, w: w, policy: resilience.Policy{Retry: r}}
	for range 5 {
		c.bear()
	}
	c.tell()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	var wg sync.WaitGroup
	var asked, failed atomic.Int64
	for i := range 8 {
		client := a.client(i%2 == 0)
		wg.Go(func() {
			for ctx.Err() == nil {
				resp, err := client.Get("http://10.96.0.1/")
				asked.Add(1)
				word := ""
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
					if resp.StatusCode != 200 {
						word = resp.Status + " " + resp.Header.Get(hop.FieldProxyError)
					}
				}
				if err != nil || word != "" {
					failed.Add(1)
					t.Errorf("request %d: %s %v", asked.Load(), word, err)
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	did := map[string]int{}
	for ctx.Err() == nil {
		did[c.strike()]++
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	wg.Wait()
	t.Logf("%d requests, %d failed, %v retries; %v", asked.Load(), failed.Load(), a.metric("outbound_http_route_retry_requests_total"), did)
}
