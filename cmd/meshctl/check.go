package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/health"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/render"
)

const (
	hints = "docs/local.md#"
	// soon is how early an expiry is worth a warning.
	soon = 60 * 24 * time.Hour
	// leafSoon is the same of a workload's certificate, which lives a day and is
	// renewed after 70 % of it.
	leafSoon = 2 * time.Hour
)

func (a *app) checkCommand() *cobra.Command {
	var f checkFlags
	c := &cobra.Command{
		Use:   "check",
		Short: "Check a cluster or this machine, and the mesh there, for problems",
		Long: `Checks what a mesh needs of a Kubernetes cluster and, when one is installed, that
it is healthy; with --local, the same of this machine and a local mesh. Exits with
1 when a check fails; warnings do not fail. What may come right by itself, such as
a control plane that is starting, is waited for.`,
		Example: `  meshctl check --pre
  meshctl check
  meshctl check --proxy -n emojivoto
  meshctl check --local demo -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.output != "table" && f.output != "json" && f.output != "short" {
				return usage("-o %s: want table, json or short", f.output)
			}
			local := cmd.Flags().Changed("local") || a.env("TUNMESH_LOCAL") != ""
			if local && (f.pre || f.proxy) {
				return usage("--pre and --proxy are of clusters, and --local is not")
			}
			if f.pre && f.proxy {
				return usage("--pre is before there are proxies: leave --proxy out")
			}
			if local && !cmd.Flags().Changed("wait") {
				f.wait = 0
			}
			var (
				cats []render.CheckCategory
				err  error
			)
			if local {
				cats = a.localChecks(cmd.Context(), f)
			} else if cats, err = a.clusterChecks(cmd.Context(), f); err != nil {
				return err
			}
			if f.output == "json" {
				err = render.ChecksJSON(a.out, cats)
			} else {
				err = render.Checks(a.out, cats, f.output == "short")
			}
			if err == nil && !render.Passed(cats) {
				return &exitError{code: exitFailed}
			}
			return err
		},
	}
	fl := c.Flags()
	fl.StringVarP(&f.output, "output", "o", "table", "table, short or json")
	fl.DurationVar(&f.wait, "wait", 5*time.Minute, "wait so long for what may come right by itself (with --local: 0s)")
	fl.BoolVar(&f.pre, "pre", false, "check a cluster before anything is installed in it")
	fl.BoolVar(&f.proxy, "proxy", false, "check the sidecars, too; those of -n, or all")
	return c
}

type checkFlags struct {
	output     string
	wait       time.Duration
	pre, proxy bool
}

// localChecks are those of this machine, again while one fails and there is time.
func (a *app) localChecks(ctx context.Context, f checkFlags) []render.CheckCategory {
	deadline := time.Now().Add(f.wait)
	for {
		cats := a.checks(ctx)
		if render.Passed(cats) || time.Now().After(deadline) || ctx.Err() != nil {
			return cats
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func check(description, anchor string, f func() error) render.CheckResult {
	r := render.CheckResult{Description: description, Result: render.CheckSuccess}
	if err := f(); err != nil {
		r.Result, r.Error, r.Hint = render.CheckError, err.Error(), hints+anchor
	}
	return r
}

func warn(description, anchor string, f func() error) render.CheckResult {
	r := check(description, anchor, f)
	if r.Result == render.CheckError {
		r.Result = render.CheckWarning
	}
	return r
}

// checks runs everything; a mesh that is not running is left out, with a line.
func (a *app) checks(ctx context.Context) []render.CheckCategory {
	cats := []render.CheckCategory{{Name: "local-machine", Checks: a.machineChecks()}}
	dir, err := a.mesh()
	running := render.CheckCategory{Name: "local-mesh"}
	if err == nil && !dir.Held() {
		err = fmt.Errorf("no local mesh %q is running: start one with meshctl local up", dir.Name())
	}
	if err != nil {
		running.Checks = append(running.Checks, warn("a local mesh is running", "running", func() error { return err }))
		return append(cats, running)
	}
	running.Checks = append(running.Checks, check("a local mesh is running", "running", func() error { return nil }))
	var h *query.HealthResponse
	running.Checks = append(running.Checks, check("the control plane answers", "control-plane", func() error {
		q, done, err := a.query()
		if err != nil {
			return err
		}
		defer done()
		ctx, cancel := context.WithTimeout(ctx, askWithin)
		defer cancel()
		h, err = q.Health(ctx, &query.HealthRequest{})
		if err != nil {
			return apiError(err)
		}
		return nil
	}))
	if h != nil {
		running.Checks = append(running.Checks, keptCheck(h))
	}
	cats = append(cats, running)
	if h == nil {
		return cats
	}
	return append(cats, identityChecks(h, time.Now()), proxyChecks(h, time.Now()))
}

func keptCheck(h *query.HealthResponse) render.CheckResult {
	return warn("what sidecars count is kept", "figures", func() error { return health.Kept(h) })
}

func identityChecks(h *query.HealthResponse, now time.Time) render.CheckCategory {
	c := render.CheckCategory{Name: "identity"}
	for _, cert := range h.GetCertificates() {
		left := time.Unix(cert.GetNotAfterUnix(), 0).Sub(now)
		c.Checks = append(c.Checks,
			check(cert.GetName()+" is within its validity period", "certificates", func() error {
				if left <= 0 {
					return fmt.Errorf("%s expired %v ago", cert.GetSubject(), -left.Round(time.Minute))
				}
				return nil
			}),
			warn(cert.GetName()+" is valid for at least 60 days", "certificates", func() error {
				if left > 0 && left < soon {
					return fmt.Errorf("%s expires in %v", cert.GetSubject(), left.Round(time.Minute))
				}
				return nil
			}))
	}
	return c
}

func proxyChecks(h *query.HealthResponse, now time.Time) render.CheckCategory {
	var away, unready, expiring, versions []string
	for _, p := range h.GetProxies() {
		name := p.GetNamespace() + "/" + p.GetPod()
		if !p.GetConnected() {
			away = append(away, name)
		}
		if !p.GetReady() {
			unready = append(unready, name)
		}
		if t := p.GetCertificateNotAfterUnix(); t > 0 && time.Unix(t, 0).Sub(now) < leafSoon {
			expiring = append(expiring, name)
		}
		if v := p.GetVersion(); v != "" && v != h.GetVersion() {
			versions = append(versions, name+" ("+v+")")
		}
	}
	named := func(what string, pods []string) func() error {
		return func() error {
			if len(pods) == 0 {
				return nil
			}
			return fmt.Errorf("%s: %s", what, strings.Join(pods, ", "))
		}
	}
	return render.CheckCategory{Name: "data-plane", Checks: []render.CheckResult{
		check("data plane proxies are connected", "proxies", named("not connected", away)),
		check("data plane proxies are ready", "proxies", named("not ready", unready)),
		check("data plane certificates are being renewed", "certificates", named("about to expire", expiring)),
		warn("data plane and control plane versions match", "versions", named("another version", versions)),
	}}
}
