package catalog_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/tunmesh/tunmesh/control/catalog"
)

// BenchmarkPodChange: one pod of 10,000 behind 1,000 Services, all in one
// namespace, becomes ready or not, while each Service has 20 watchers.
func BenchmarkPodChange(b *testing.B) {
	c, err := catalog.New(catalog.Config{})
	if err != nil {
		b.Fatal(err)
	}
	app := func(n int) func(*catalog.Pod) {
		return func(p *catalog.Pod) { p.Labels = map[string]string{"app": fmt.Sprint(n % 1000)} }
	}
	ip := func(n int) string { return fmt.Sprintf("10.1.%d.%d", n>>8, n&255) }
	var changes []catalog.Change
	for n := range 1000 {
		changes = append(changes, service(fmt.Sprintf("s%d", n), fmt.Sprintf("10.96.%d.%d", n>>8, n&255), func(s *catalog.Service) {
			s.Selector = map[string]string{"app": fmt.Sprint(n)}
		}))
	}
	for n := range 10000 {
		changes = append(changes, pod(fmt.Sprintf("p%d", n), ip(n), app(n)))
	}
	c.Apply(changes...)
	for n := range 20000 {
		w := c.Watch(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, byte(n % 1000 >> 8), byte(n % 1000)}), 80))
		defer w.Close()
	}
	i := 0
	for b.Loop() {
		n := i % 10000
		if i/10000%2 == 0 {
			c.Apply(pod(fmt.Sprintf("p%d", n), ip(n), app(n), notReady))
		} else {
			c.Apply(pod(fmt.Sprintf("p%d", n), ip(n), app(n)))
		}
		i++
	}
}
