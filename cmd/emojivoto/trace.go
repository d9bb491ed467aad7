package main

import (
	"net/http"

	"google.golang.org/grpc/metadata"
)

// propagated has the calls that a request leads to carry the request's trace on:
// all that an app has to do for a mesh to show its requests as one trace.
func propagated(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		for _, name := range []string{"traceparent", "tracestate", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags"} {
			for _, v := range r.Header.Values(name) {
				ctx = metadata.AppendToOutgoingContext(ctx, name, v)
			}
		}
		next.ServeHTTP(rw, r.WithContext(ctx))
	})
}
