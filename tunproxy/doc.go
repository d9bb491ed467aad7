// Package tunproxy is the sidecar: it composes the packages below it and owns
// nothing but the order in which they are used. outbound.go and inbound.go each
// read from top to bottom as the road of one connection:
//
//	accept or refuse → target → detect → route → balance → mTLS → upstream
//
// It refuses to know how packets become connections (netstack), what bytes mean
// (h1, h2, detect) and what the cluster looks like (discover).
package tunproxy
