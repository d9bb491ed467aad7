package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/installation"
	"github.com/tunmesh/tunmesh/internal/version"
)

// versionWithin bounds the question for the cluster's version: who asks for a
// version does not want to wait.
const versionWithin = 5 * time.Second

// unavailable stands for a version that could not be asked for.
const unavailable = "unavailable"

// versions is what there is to say, as JSON too.
type versions struct {
	Client  string         `json:"client"`
	Server  string         `json:"server,omitempty"`
	Proxies map[string]int `json:"proxies,omitempty"` // pods by version
}

func (a *app) versionCommand() *cobra.Command {
	var (
		output          string
		client, proxies bool
	)
	c := &cobra.Command{
		Use:   "version",
		Short: "Print the versions of meshctl, of the mesh in the cluster, and of its sidecars",
		Example: `  meshctl version
  meshctl version --proxy -n emojivoto
  meshctl version --client -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "" && output != "json" {
				return usage("-o %s: want json", output)
			}
			if client && proxies {
				return usage("--client asks no cluster, and --proxy does")
			}
			v := versions{Client: version.String()}
			if !client {
				v.Server = unavailable
				ask := a.askVersions
				if a.asksLocal(cmd) {
					ask = a.askLocalVersions
				}
				if err := ask(cmd.Context(), &v, proxies); err != nil {
					return err
				}
			}
			if output == "json" {
				return json.NewEncoder(a.out).Encode(v)
			}
			return v.print(a)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "json, or nothing for text")
	c.Flags().BoolVar(&client, "client", false, "this program's version alone")
	c.Flags().BoolVar(&proxies, "proxy", false, "sidecars' versions, too; those of -n, or all")
	return c
}

// askVersions asks the cluster. That there is none, or no mesh, is no error unless
// sidecars are asked for.
func (a *app) askVersions(ctx context.Context, v *versions, proxies bool) error {
	within := versionWithin
	if proxies {
		within = clusterWithin
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	c, err := a.cluster()
	if err == nil {
		var there *installation.Installed
		if there, err = installation.Find(ctx, c.kube); err == nil {
			v.Server = there.Version
		}
	}
	if !proxies {
		return nil
	}
	if err != nil {
		return err
	}
	v.Proxies, err = installation.Sidecars(ctx, c.kube, *a.kube.Namespace)
	return err
}

// askLocalVersions asks a local mesh the same.
func (a *app) askLocalVersions(ctx context.Context, v *versions, proxies bool) error {
	ctx, cancel := context.WithTimeout(ctx, versionWithin)
	defer cancel()
	q, done, err := a.query()
	if err == nil {
		defer done()
		var h *query.HealthResponse
		if h, err = q.Health(ctx, &query.HealthRequest{}); err == nil {
			v.Server = h.GetVersion()
			v.Proxies = map[string]int{}
			for _, p := range h.GetProxies() {
				if ns := *a.kube.Namespace; ns == "" || ns == p.GetNamespace() {
					v.Proxies[cmp.Or(p.GetVersion(), unavailable)]++
				}
			}
		}
	}
	if !proxies {
		v.Proxies = nil
		return nil
	}
	if err != nil {
		return apiError(err)
	}
	return nil
}

func (v versions) print(a *app) error {
	text := "Client version: " + v.Client + "\n"
	if v.Server != "" {
		text += "Server version: " + v.Server + "\n"
	}
	if v.Proxies != nil {
		text += "Proxy versions:\n"
		for _, p := range slices.Sorted(maps.Keys(v.Proxies)) {
			text += fmt.Sprintf("\t%s (%s)\n", p, count(v.Proxies[p], "pod", "pods"))
		}
	}
	_, err := fmt.Fprint(a.out, text)
	return err
}
