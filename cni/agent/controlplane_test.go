package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestControlPlane(t *testing.T) {
	for at, want := range map[string]string{
		"10.0.0.1:8086": "", "[fd00::1]:8086": "", "mesh-control.tunmesh.svc:8086": "",
		"": "--control", "10.0.0.1": "--control", "mesh-control": "--control", ":8086": "--control", "x:0": "--control", "10.0.0.1:0": "--control", "x:99999": "--control",
	} {
		if _, err := newControlPlane(at); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", at, err)
		}
	}

	c, err := newControlPlane("mesh-control.tunmesh.svc:8086")
	if err != nil {
		t.Fatal(err)
	}
	var answer []netip.Addr
	fails := errors.New("nobody answers")
	c.look = func(_ context.Context, host string) ([]netip.Addr, error) {
		if host != "mesh-control.tunmesh.svc" {
			t.Errorf("looked up %q", host)
		}
		return answer, fails
	}
	wants := func(addrs, err string) {
		t.Helper()
		got, gerr := c.addresses()
		var text []string
		for _, a := range got {
			text = append(text, a.String())
		}
		if strings.Join(text, " ") != addrs || (gerr == nil) != (err == "") || gerr != nil && !strings.Contains(gerr.Error(), err) {
			t.Errorf("%v, %v; want %q, %q", got, gerr, addrs, err)
		}
	}
	wants("", "is being looked up")
	_ = c.refresh(t.Context())
	wants("", "nobody answers")
	fails = nil
	_ = c.refresh(t.Context())
	wants("", "has no address")
	answer = []netip.Addr{netip.MustParseAddr("fd00::1"), netip.MustParseAddr("::ffff:10.0.0.1")}
	_ = c.refresh(t.Context())
	wants("10.0.0.1:8086 [fd00::1]:8086", "")
	fails = errors.New("nobody answers any more")
	_ = c.refresh(t.Context())
	wants("10.0.0.1:8086 [fd00::1]:8086", "")

	// It is asked again soon while nothing is known.
	soon, err := newControlPlane("x:1")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	asked := 0
	soon.look = func(context.Context, string) ([]netip.Addr, error) {
		if asked++; asked == 1 {
			return nil, errors.New("not yet")
		}
		cancel()
		return answer, nil
	}
	soon.run(ctx, slog.New(slog.DiscardHandler))
	if got, err := soon.addresses(); err != nil || !slices.Contains(got, netip.MustParseAddrPort("10.0.0.1:1")) {
		t.Errorf("%v, %v", got, err)
	}
}
