package main

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/render"
)

// exitDegraded is why's: it works now and then.
const exitDegraded = 3

func (a *app) whyCommand() *cobra.Command {
	var (
		output, toNamespace string
		port                uint16
	)
	c := &cobra.Command{
		Use:   "why FROM TO",
		Short: "Explain what would happen to a connection",
		Long: `Explains whether a connection from a pod or workload to a Service, pod, workload,
name or address works, and what decides: the name, the Service and its port, the
endpoints and their health, the identities on both sides, the policy that lets it
in or does not, circuit breakers, and what failed lately.

TO is TYPE/NAME, or a name as the app would ask for, or an address; :PORT may
follow. Exit codes: 0 it works, 1 it does not, 3 it works now and then.`,
		Example: `  meshctl why deploy/web voting-svc:8080 -n emojivoto
  meshctl why po/web-5d8c9 svc/voting-svc --port 8080 -n emojivoto -o json`,
		Args: cobra.RangeArgs(2, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "text" && output != "json" {
				return usage("--output %q: want text or json", output)
			}
			if len(args) == 3 {
				if args[1] != "→" && args[1] != "to" {
					return usage("%q: want FROM TO", strings.Join(args, " "))
				}
				args = []string{args[0], args[2]}
			}
			at, err := a.asked(cmd)
			if err != nil {
				return err
			}
			req, err := whyRequest(args[0], args[1], port, at.namespace, orElse(toNamespace, at.namespace))
			if err != nil {
				return err
			}
			ctx, q, done, err := at.once(cmd)
			if err != nil {
				return err
			}
			defer done()
			resp, err := q.Why(ctx, req)
			if err != nil {
				return apiError(err)
			}
			show := render.Why
			if output == "json" {
				show = render.WhyJSON
			}
			if err := show(a.out, resp); err != nil {
				return err
			}
			switch resp.GetVerdict() {
			case query.WhyResponse_WORKS:
				return nil
			case query.WhyResponse_DEGRADED:
				return &exitError{code: exitDegraded}
			}
			return &exitError{code: exitFailed}
		},
	}
	c.Flags().Uint16Var(&port, "port", 0, "port to connect to (default: the only one that there is)")
	c.Flags().StringVar(&toNamespace, "to-namespace", "", "namespace of TO as TYPE/NAME (default: of FROM)")
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return c
}

// whyRequest reads the two ends.
func whyRequest(from, to string, port uint16, namespace, toNamespace string) (*query.WhyRequest, error) {
	if !strings.Contains(from, "/") {
		return nil, usage("%q: want a pod or workload as TYPE/NAME", from)
	}
	sel, err := parseResources([]string{from}, namespace, false, "")
	if err != nil {
		return nil, err
	}
	req := &query.WhyRequest{From: sel[0], Port: uint32(port)}
	if _, err := netip.ParseAddr(to); err != nil { // else its colons are its own
		if i := strings.LastIndexByte(to, ':'); i >= 0 {
			n, err := strconv.ParseUint(to[i+1:], 10, 16)
			switch {
			case err != nil || n == 0:
				return nil, usage("%q: %q is no port", to, to[i+1:])
			case port != 0 && uint64(port) != n:
				return nil, usage("%q and --port %d: which?", to, port)
			}
			req.Port, to = uint32(n), strings.Trim(to[:i], "[]")
		}
	}
	switch {
	case to == "":
		return nil, usage("name what to connect to")
	case strings.Contains(to, "/"):
		if sel, err = parseResources([]string{to}, toNamespace, false, ""); err != nil {
			return nil, err
		}
		req.To = sel[0]
	default:
		req.ToHost = to
	}
	return req, nil
}
