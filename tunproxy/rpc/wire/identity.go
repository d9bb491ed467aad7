package wire

// Methods of tunmesh.identity.v1.Identity.
const (
	MethodCertify    = "/tunmesh.identity.v1.Identity/Certify"
	MethodWatchTrust = "/tunmesh.identity.v1.Identity/WatchTrust"
)

// CertifyRequest is tunmesh.identity.v1.CertifyRequest.
type CertifyRequest struct {
	CSR   []byte
	Token string
}

// Append encodes m.
func (m *CertifyRequest) Append(b []byte) []byte {
	return appendString(appendBytes(b, 1, m.CSR), 2, m.Token)
}

// CertifyResponse is tunmesh.identity.v1.CertifyResponse.
type CertifyResponse struct {
	Chain, Anchors [][]byte
	NotAfterUnix   int64
	Generation     uint64
}

// Decode replaces m.
func (m *CertifyResponse) Decode(b []byte) error {
	*m = CertifyResponse{}
	return each("CertifyResponse", b, func(f field) error {
		switch f.num {
		case 1:
			return f.blobs(&m.Chain)
		case 2:
			return f.blobs(&m.Anchors)
		case 3:
			return f.i64(&m.NotAfterUnix)
		case 4:
			return f.u64(&m.Generation)
		}
		return nil
	})
}

// TrustBundle is tunmesh.identity.v1.TrustBundle.
type TrustBundle struct {
	Anchors    [][]byte
	Generation uint64
}

// Decode replaces m.
func (m *TrustBundle) Decode(b []byte) error {
	*m = TrustBundle{}
	return each("TrustBundle", b, func(f field) error {
		switch f.num {
		case 1:
			return f.blobs(&m.Anchors)
		case 2:
			return f.u64(&m.Generation)
		}
		return nil
	})
}
