package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/render"
)

// endpointsCommand is the same at two places, which its examples say.
func (a *app) endpointsCommand(path string) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:     "endpoints AUTHORITY…",
		Aliases: []string{"ep"},
		Short:   "Show what the control plane takes Services' ports to lead to",
		Long: `Shows the endpoints of ports of Services, named as clients do:
NAME[.NAMESPACE[.svc[.cluster.local]]]:PORT. Those that are not ready get nothing.
IDENTITY is whom clients take an answer from; "-" is a pod without a sidecar. In
JSON, http2 says that requests go to it in HTTP/2: to all pods with a sidecar,
whatever clients speak, and to others where the Service's appProtocol says so; not
to ports that are opaque.`,
		Example: "  " + path + ` endpoints web-svc.emojivoto.svc.cluster.local:80
  ` + path + ` endpoints -n emojivoto emoji-svc:8080 voting-svc:8080 -o json`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "table" && output != "json" {
				return usage("--output %q: want table or json", output)
			}
			for _, authority := range args {
				if err := checkAuthority(authority); err != nil {
					return err
				}
			}
			at, err := a.asked(cmd)
			if err != nil {
				return err
			}
			ctx, q, done, err := at.once(cmd)
			if err != nil {
				return err
			}
			defer done()
			var rows []*query.EndpointRow
			for _, authority := range args {
				resp, err := q.Endpoints(ctx, &query.EndpointsRequest{Authority: within(authority, at.namespace)})
				if err != nil {
					return apiError(err)
				}
				rows = append(rows, resp.GetRows()...)
			}
			if output == "json" {
				return render.EndpointsJSON(a.out, rows)
			}
			if len(rows) == 0 {
				_, err = fmt.Fprintln(a.err, "No endpoints found.")
				return err
			}
			return render.Endpoints(a.out, rows)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return c
}

// checkAuthority refuses what can be no port of a Service.
func checkAuthority(s string) error {
	name, port, ok := strings.Cut(s, ":")
	if n, err := strconv.ParseUint(port, 10, 16); !ok || name == "" || err != nil || n == 0 {
		return usage("authority %q: want NAME.NAMESPACE.svc.cluster.local:PORT, or NAME:PORT in the namespace of -n", s)
	}
	return nil
}

// within is an authority with the namespace in it.
func within(authority, namespace string) string {
	name, port, _ := strings.Cut(authority, ":")
	if !strings.Contains(name, ".") {
		name += "." + namespace
	}
	return name + ":" + port
}

func (a *app) policyCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "policy po/NAME|svc/NAME PORT",
		Short: "Show what sidecars are told of a port",
		Long: `Shows, of a port of a pod, whom the pod's sidecar lets in and by what protocol,
and of a port of a Service, what its clients' sidecars do with what goes there:
timeouts, retries, circuit breakers. It is the message that sidecars get.`,
		Example: `  meshctl diagnostics policy svc/web-svc 80 -n emojivoto
  meshctl diagnostics policy po/web-5d8c9 8080 -n emojivoto -o json`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "yaml" && output != "json" {
				return usage("--output %q: want yaml or json", output)
			}
			port, err := strconv.ParseUint(args[1], 10, 16)
			if err != nil || port == 0 {
				return usage("port %q: want a number from 1 to 65535", args[1])
			}
			if kind, _, ok := strings.Cut(args[0], "/"); !ok {
				return usage("%q: want po/NAME or svc/NAME", args[0])
			} else if k, ok := kindOf(kind); !ok || k != "pod" && k != "service" {
				return usage("%q: want po/NAME or svc/NAME", args[0])
			}
			at, err := a.asked(cmd)
			if err != nil {
				return err
			}
			sel, err := parseResources(args[:1], at.namespace, false, "")
			if err != nil {
				return err
			}
			ctx, q, done, err := at.once(cmd)
			if err != nil {
				return err
			}
			defer done()
			resp, err := q.Policy(ctx, &query.PolicyRequest{Resource: sel[0], Port: uint32(port)})
			if err != nil {
				return apiError(err)
			}
			if output == "json" {
				return render.PolicyJSON(a.out, resp)
			}
			return render.PolicyYAML(a.out, resp)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "yaml", "yaml or json")
	return c
}
