package peer

import (
	"fmt"
	"os"

	"github.com/tunmesh/tunmesh/bench/load"
	"github.com/tunmesh/tunmesh/bench/pki"
	"github.com/tunmesh/tunmesh/bench/proc"
	"github.com/tunmesh/tunmesh/bench/topology"
)

// external is a pair of any program that listens where it is told. It is run
// once for each side, in the side's pod, as the user whose connections are not
// redirected, with this in its environment:
//
//	BENCH_SIDE            client or server
//	BENCH_TARGET          the address to go on to, at the application's own port
//	BENCH_OFFSET          what to add to an application's port for the one to listen at
//	BENCH_PORTS           the application's ports: echo=7001,sink=7002,http1=8001,http2=8002
//	BENCH_CA, BENCH_CERT, BENCH_KEY   PEM files of the side
//	BENCH_IDENTITY, BENCH_PEER, BENCH_PEER_NAME   the own SPIFFE ID, the other's, its DNS name
//
// TLS 1.3 with client certificates is expected from the client's side to the
// server's, and nothing but it at the server's.
func (e *Env) external(name, path string) (*Peer, error) {
	p, err := e.newPair(true)
	if err != nil {
		return nil, err
	}
	kinds := []load.Kind{load.Echo, load.Sink, load.ServeH1, load.ServeH2}
	var procs []*proc.Process
	for _, s := range p.sides() {
		d := p.data(s)
		other := "client"
		if d.Client {
			other = "server"
		}
		env := []string{
			"BENCH_SIDE=" + s.side, "BENCH_TARGET=" + d.Target, fmt.Sprintf("BENCH_OFFSET=%d", s.plus),
			fmt.Sprintf("BENCH_PORTS=echo=%d,sink=%d,http1=%d,http2=%d", EchoPort, SinkPort, HTTP1Port, HTTP2Port),
			"BENCH_CA=" + d.CA, "BENCH_CERT=" + d.Cert, "BENCH_KEY=" + d.Key,
			"BENCH_IDENTITY=" + pki.Identity(s.side), "BENCH_PEER=" + pki.Identity(other), "BENCH_PEER_NAME=" + pki.Name(other),
		}
		if _, err := os.Stat(path); err != nil {
			return nil, &MissingError{What: path, Install: "name the path of a program: --external " + name + "=PATH"}
		}
		r, err := e.start(proc.Spec{Path: path, Space: s.space, UID: topology.PeerUID, Env: env, Silent: true})
		if err != nil {
			return nil, err
		}
		var ports []uint16
		for _, k := range kinds {
			ports = append(ports, Kinds()[k]+s.plus)
		}
		if err := listening(r, ports...); err != nil {
			return nil, fmt.Errorf("%s side: %w", s.side, err)
		}
		procs = append(procs, r)
	}
	q := p.peer(name, procs[0], procs[1])
	q.MTLS, q.Setup = true, "nft redirect, an external program"
	return q, nil
}
