package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/tunmesh/tunmesh/internal/hop"
	"github.com/tunmesh/tunmesh/internal/spiffe"
)

func (s *Store) build(anchorsDER [][]byte, anchors *x509.CertPool, cert *tls.Certificate) *snapshot {
	n := &snapshot{
		anchorsDER: anchorsDER, anchors: anchors, cert: cert,
		sessions: newSessions(s.cfg.MaxSessions), verified: newVerified(), mark: new(byte),
	}
	if cert == nil {
		return n
	}
	n.id, _ = identity(cert.Leaf)
	n.notAfter = cert.Leaf.NotAfter
	n.server = s.base()
	n.server.NextProtos = []string{hop.ALPNRequests, hop.ALPNBytes, hop.ALPNUpgrade}
	n.server.ClientAuth = tls.RequireAnyClientCert
	own := n.id.ServerName()
	n.server.GetCertificate = func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if h.ServerName != own {
			return nil, nil //nolint:nilnil // is answered with unrecognized_name
		}
		return cert, nil
	}
	n.server.VerifyConnection = func(cs tls.ConnectionState) error {
		if cs.NegotiatedProtocol == "" {
			return errNoProtocol
		}
		_, err := n.verify(cs.PeerCertificates, s.cfg.Now())
		return err
	}
	return n
}

// base is what both roles have in common.
func (s *Store) base() *tls.Config {
	return &tls.Config{
		Time:       s.cfg.Now,
		MinVersion: tls.VersionTLS13,
		MaxVersion: tls.VersionTLS13,
		CurvePreferences: []tls.CurveID{
			tls.X25519MLKEM768, tls.X25519, tls.CurveP256,
		},
		// Records as large as they come: each costs a nonce, a tag and, in the
		// peer, a pass through the decryptor.
		DynamicRecordSizingDisabled: true,
	}
}

// ClientTLS is the configuration of a client that speaks to one of the accepted
// identities, for blocking connections of goroutines (the control plane's).
// withCertificate presents ours; without one in the Store that is an error.
func (s *Store) ClientTLS(accept []spiffe.ID, alpn string, withCertificate bool) (*tls.Config, error) {
	n := s.current.Load()
	if withCertificate && n.cert == nil {
		return nil, errNoOwnCertificate
	}
	c, err := s.client(n, accept, "", alpn, "")
	if err != nil {
		return nil, err
	}
	if !withCertificate {
		c.GetClientCertificate = nil
	}
	return c, nil
}

// client is the configuration of one client connection. endpoint separates the
// session tickets of servers that share a name.
func (s *Store) client(n *snapshot, accept []spiffe.ID, serverName, alpn, endpoint string) (*tls.Config, error) {
	switch {
	case n.anchors == nil:
		return nil, errNoAnchors
	case len(accept) == 0:
		return nil, errors.New("no identity to accept was given")
	}
	if serverName == "" {
		serverName = accept[0].ServerName()
	}
	c := s.base()
	c.ServerName = serverName
	if alpn != "" {
		c.NextProtos = []string{alpn}
	}
	// The chain is verified below; the standard check wants a host name.
	c.InsecureSkipVerify = true
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		if cs.NegotiatedProtocol != alpn {
			return fmt.Errorf("%w: the server chose %q, want %q", ErrProtocol, cs.NegotiatedProtocol, alpn)
		}
		id, err := n.verify(cs.PeerCertificates, s.cfg.Now())
		if err != nil {
			return err
		}
		for _, a := range accept {
			if id == a {
				return nil
			}
		}
		return wrongIdentity(id, accept)
	}
	if n.cert != nil {
		cert := n.cert
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	if endpoint != "" {
		c.ClientSessionCache = sessionsOf{cache: n.sessions, endpoint: endpoint}
	}
	return c, nil
}
