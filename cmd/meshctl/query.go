package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/viewclient"
)

// asked is the mesh that a question is about.
type asked struct {
	namespace string // of resources that name none
	connect   func() (c query.QueryClient, closer func(), err error)
}

// once connects for a question that is answered at once, within askWithin; done ends
// both the connection and ctx.
func (at asked) once(cmd *cobra.Command) (ctx context.Context, q query.QueryClient, done func(), err error) {
	ctx, cancel := context.WithTimeout(cmd.Context(), askWithin)
	q, closer, err := at.connect()
	if err != nil {
		cancel()
		return nil, nil, nil, err
	}
	return ctx, q, func() {
		closer()
		cancel()
	}, nil
}

// asked finds the mesh that a command asks: the local one where it is named, or
// where one runs and nothing names a cluster; else the cluster's.
func (a *app) asked(cmd *cobra.Command) (asked, error) {
	if a.asksLocal(cmd) {
		n := *a.kube.Namespace
		if n == "" {
			n = "default"
		}
		return asked{n, a.query}, nil
	}
	n, err := a.namespace()
	return asked{n, a.view}, err
}

// asksLocal reports whether the command line means a local mesh.
func (a *app) asksLocal(cmd *cobra.Command) bool {
	if cmd.Flags().Changed("local") || a.env("TUNMESH_LOCAL") != "" {
		return true
	}
	if a.fake != nil || cmd.Flags().Changed("kubeconfig") || cmd.Flags().Changed("context") || a.env("KUBECONFIG") != "" {
		return false
	}
	d, err := a.mesh()
	return err == nil && d.Held()
}

// view asks the mesh in the cluster, through its API server.
func (a *app) view() (query.QueryClient, func(), error) {
	cfg, err := a.restConfig()
	if err != nil {
		return nil, nil, fmt.Errorf("%w (a local mesh is named by --local)", err)
	}
	c, err := viewclient.New(cfg)
	return c, func() {}, err
}

// query reaches the query API of the local mesh that the flags name: a unix
// socket that root alone may open.
func (a *app) query() (c query.QueryClient, closer func(), err error) {
	if err := a.needRoot(); err != nil {
		return nil, nil, err
	}
	d, err := a.mesh()
	if err != nil {
		return nil, nil, err
	}
	if !d.Held() {
		return nil, nil, fmt.Errorf("no local mesh %q is running: start one with meshctl local up, or name another with --local", d.Name())
	}
	conn, err := grpc.NewClient("unix:"+d.Query(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, nil, fmt.Errorf("connect to %s: %w", d.Query(), err)
	}
	return query.NewQueryClient(conn), func() { _ = conn.Close() }, nil
}
