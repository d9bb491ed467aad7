package main

import (
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tunmesh/tunmesh/api/query"
)

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
