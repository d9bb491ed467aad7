// Package serving keeps the certificates that the API server knows us by when it
// calls: the injector's, and the aggregated API's. It owns making, renewing and
// rotating them. It refuses to know what is served, and how the API server is
// told (Store).
package serving
