package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/render"
)

func TestLocalStandsAloneOrTakesAName(t *testing.T) {
	for in, want := range map[string]string{
		"check --local":            "check --local=",
		"check --local -o json":    "check --local= -o json",
		"--local demo stat deploy": "--local demo stat deploy",
		"local exec p -- --local":  "local exec p -- --local",
	} {
		if got := localArgs(strings.Fields(in)); !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%s: %v, want %s", in, got, want)
		}
	}
}

func TestChecksOfAMesh(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	h := &query.HealthResponse{
		Version: "v1", FiguresProblem: "/metrics: no space left on device",
		Certificates: []*query.Certificate{
			{Name: "trust anchor", Subject: "CN=root", NotAfterUnix: now.Add(-time.Hour).Unix()},
			{Name: "issuer", Subject: "CN=issuer", NotAfterUnix: now.Add(24 * time.Hour).Unix()},
		},
		Proxies: []*query.ProxyHealth{
			{Namespace: "a", Pod: "good", Connected: true, Ready: true, Version: "v1", CertificateNotAfterUnix: now.Add(20 * time.Hour).Unix()},
			{Namespace: "a", Pod: "bad", Version: "v0", CertificateNotAfterUnix: now.Add(time.Minute).Unix()},
		},
	}
	var b strings.Builder
	cats := []render.CheckCategory{{Name: "local-mesh", Checks: []render.CheckResult{keptCheck(h)}}, identityChecks(h, now), proxyChecks(h, now)}
	if err := render.Checks(&b, cats, false); err != nil {
		t.Fatal(err)
	}
	want := `local-mesh
----------
‼ what sidecars count is kept
    /metrics: no space left on device
    see docs/local.md#figures for hints

identity
--------
× trust anchor is within its validity period
    CN=root expired 1h0m0s ago
    see docs/local.md#certificates for hints
√ trust anchor is valid for at least 60 days
√ issuer is within its validity period
‼ issuer is valid for at least 60 days
    CN=issuer expires in 24h0m0s
    see docs/local.md#certificates for hints

data-plane
----------
× data plane proxies are connected
    not connected: a/bad
    see docs/local.md#proxies for hints
× data plane proxies are ready
    not ready: a/bad
    see docs/local.md#proxies for hints
× data plane certificates are being renewed
    about to expire: a/bad
    see docs/local.md#certificates for hints
‼ data plane and control plane versions match
    another version: a/bad (v0)
    see docs/local.md#versions for hints

Status check results are ×
`
	if b.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", b.String(), want)
	}
	if render.Passed(cats) {
		t.Error("failed checks passed")
	}
	if r := keptCheck(&query.HealthResponse{}); r.Result != render.CheckSuccess {
		t.Errorf("%+v", r)
	}
	if !render.Passed([]render.CheckCategory{proxyChecks(&query.HealthResponse{Version: "v1", Proxies: h.GetProxies()[:1]}, now)}) {
		t.Error("a healthy mesh does not pass")
	}
}
