package tunproxy_test

import (
	"bytes"
	"os"
	"regexp"
	"testing"

	"github.com/tunmesh/tunmesh/netstack/packet"
	"github.com/tunmesh/tunmesh/tunproxy/tracing"
)

// Every family that a sidecar's page has, and every reason of a drop, is in
// docs/metrics.md.
func TestMetricsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := func(name string) bool { return bytes.Contains(doc, []byte("`"+name+"`")) }
	w := newWorld(t)
	tr := tracing.New(tracing.Config{})
	a, b := w.pod("a", "10.0.0.1", traceBy(tr)), w.pod("b", "10.0.0.2", traceBy(tr))
	w.service("10.96.0.1:80", "10.0.0.2:80=b")
	b.serveHTTP(80, whoami("b"))
	resp, err := a.client(true).Get("http://10.96.0.1/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	for _, p := range []*pod{a, b} {
		eventually(t, "the request is counted", func() bool { return p.metric("response_total") == 1 })
		page := string(p.metrics.Registry.Text())
		families := regexp.MustCompile(`(?m)^# TYPE (\S+)`).FindAllStringSubmatch(page, -1)
		if len(families) < 40 {
			t.Errorf("only %d families:\n%s", len(families), page)
		}
		for _, f := range families {
			if !documented(f[1]) {
				t.Errorf("%s is not in docs/metrics.md", f[1])
			}
		}
	}
	for r := packet.NoReason + 1; int(r) < packet.Reasons; r++ {
		if !documented(r.String()) {
			t.Errorf("the reason of drops %s is not in docs/metrics.md", r)
		}
	}
}
