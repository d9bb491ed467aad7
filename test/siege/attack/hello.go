package attack

import (
	"crypto/tls"
	"net"

	"github.com/tunmesh/tunmesh/internal/hop"
)

// Hello is what a client of the mesh begins with, who wants that server.
func Hello(server string) ([]byte, error) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	go func() {
		_ = tls.Client(theirs, &tls.Config{ServerName: server, NextProtos: []string{hop.ALPNRequests}, MinVersion: tls.VersionTLS13}).Handshake() // it never ends well
		_ = theirs.Close()
	}()
	b := make([]byte, 16<<10)
	n, err := ours.Read(b)
	return b[:n:n], err
}
