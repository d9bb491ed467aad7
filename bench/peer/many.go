package peer

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
)

// manyNetwork is where the endpoints of many are: one host has all its addresses.
const manyNetwork = "10.78.0.0/18"

func manyName(of string, endpoints int) string { return fmt.Sprintf("%s-%d-endpoints", of, endpoints) }

// many is a client's sidecar alone, of a Service with so many endpoints outside
// the mesh: what choosing among them costs, and what knowing them takes. proxy is
// the build; "": what was built here.
func (e *Env) many(of, proxy string, endpoints int) (*Peer, error) {
	if proxy == "" {
		proxy = filepath.Join(e.Bin, "mesh-proxy")
	}
	proxy, err := e.readable(proxy)
	if err != nil {
		return nil, err
	}
	m, err := e.startControl(feature{})
	if err != nil {
		return nil, err
	}
	client := e.Bridge.Pod()
	server, via := e.Bridge.Host()
	e.Bridge.Meet(m.space, client)
	e.Bridge.Meet(server, client)
	first := netip.MustParsePrefix(manyNetwork).Addr().Next()
	// On lo, a prefix makes every address in it the host's own.
	server.Addr("lo", netip.PrefixFrom(first, netip.MustParsePrefix(manyNetwork).Bits()).String())
	client.Uplink.Route("eth0", manyNetwork, via.String())

	var all []byte
	addr := first
	for i := range endpoints {
		pod := fmt.Sprintf("server-%d", i)
		raw, err := json.Marshal(m.object("server", pod, "uid-"+pod, addr, false))
		if err != nil {
			return nil, err
		}
		all = append(append(all, raw...), "\n---\n"...)
		addr = addr.Next()
	}
	tmp := m.path("pods", ".servers")
	if err := errors.Join(os.WriteFile(tmp, all, 0o600), os.Rename(tmp, m.path("pods", "servers.yaml"))); err != nil {
		return nil, err
	}
	q := &Peer{
		Name: manyName(of, endpoints), Version: version(`mesh-proxy (\S+)`, proxy, "-version"),
		Setup:   fmt.Sprintf("a sidecar on the client's side only, a Service with %d endpoints outside the mesh, no TLS", endpoints),
		Feature: fmt.Sprintf("one sidecar alone, %d endpoints outside the mesh, no TLS", endpoints),
		From:    client.Space, Target: netip.MustParseAddr(serviceAddr), Server: server, ServerAddr: via,
	}
	if endpoints > 1 {
		q.Beside = manyName(of, 1)
	}
	if q.App, err = e.startApp(server); err != nil {
		return nil, err
	}
	p, err := m.sidecar(proxy, "client", client, true)
	if err != nil {
		return nil, err
	}
	q.Pair = []Sidecar{{Side: "client", Process: p, Tells: says(client.Space)}}
	return q, nil
}
