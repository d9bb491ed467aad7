package control

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	policyapi "github.com/tunmesh/tunmesh/api/policy"
	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/metrics"
	"github.com/tunmesh/tunmesh/control/policy"
	"github.com/tunmesh/tunmesh/internal/spiffe"
)

// Names of the control plane itself.
const (
	// Namespace and ServiceAccount make up the control plane's own identity, the
	// only one that sidecars accept a control plane by.
	Namespace      = "tunmesh"
	ServiceAccount = "mesh-control"
	// Port is where it listens unless told otherwise.
	Port = 8086
)

// ID is the control plane's identity in a trust domain.
func ID(trustDomain string) spiffe.ID {
	return spiffe.ID{TrustDomain: trustDomain, Namespace: Namespace, ServiceAccount: ServiceAccount}
}

// Config is everything that a control plane is told. The zero value of an
// optional field is its default.
type Config struct {
	// Cluster makes the plane live in a Kubernetes cluster. nil: from folders.
	Cluster *Cluster
	// Dirs are the folders of manifests to read; required without Cluster, and they
	// exist.
	Dirs []string
	// StateDir keeps the certificate authority and the token key over restarts;
	// required without Cluster. Made with mode 0700 where it is absent.
	StateDir string
	// Listen is the address of the sidecars' API. Default "0.0.0.0:8086"; port 0
	// takes a free one, which Addr tells.
	Listen string
	// AdminListen is the address of /ready, /live and /metrics. "" = none.
	AdminListen string
	// QuerySocket is the path of the unix socket of the query API. "" = none, and
	// then no sidecar is scraped.
	QuerySocket string
	// ViewSocket is the path of the unix socket of the same questions in HTTP, as
	// the API server takes them in a cluster, and of the console. "" = none.
	ViewSocket string
	// TrustDomain is part of every identity. Default "cluster.local". Changing it
	// voids all certificates.
	TrustDomain string
	// ClusterDomain ends every name. Default "cluster.local".
	ClusterDomain string
	// MeshNetworks are the ranges of pods' and Services' addresses: one of them
	// that is nobody's is refused. Empty = unknown addresses are outside the mesh.
	MeshNetworks []netip.Prefix
	// HostAddresses are addresses within MeshNetworks that are the nodes' own, such
	// as a bridge's: reached as places outside the mesh.
	HostAddresses []netip.Addr
	// ClusterNetworks are what the cluster-* inbound policies take for the
	// cluster. Default policy.DefaultNetworks.
	ClusterNetworks []netip.Prefix
	// DefaultInboundPolicy holds where no annotation says otherwise. Default
	// all-unauthenticated, as Linkerd's.
	DefaultInboundPolicy policyapi.Default
	// ScrapeInterval is the time between two scrapes of a sidecar. Default 1.5 s;
	// shorter costs sidecars CPU, longer makes stat lag.
	ScrapeInterval time.Duration
	// Window is how far back stat can look. Default 70 s: a minute, and a scrape
	// before it.
	Window time.Duration
	// StopDelay is how long a plane that is to stop goes on, not ready any more, so
	// that whoever chooses among replicas has chosen others. Default 0.
	StopDelay time.Duration
	// MetricsRetention is how long a local mesh, where people ask, keeps figures, in
	// MetricsDir of its state folder. Default 6 h.
	MetricsRetention time.Duration
	// Version is told by the query API's Health.
	Version string
	// Logger; nil = discard.
	Logger *slog.Logger
}

// withDefaults returns the config with every optional field filled in.
func (c Config) withDefaults() (Config, error) {
	switch {
	case c.Cluster != nil && len(c.Dirs)+len(c.StateDir) > 0:
		return c, errors.New("control plane: it lives from folders or in a cluster, not both: leave the folders out")
	case c.Cluster != nil:
	case len(c.Dirs) == 0:
		return c, errors.New("control plane: no folder of manifests: name at least one")
	case c.StateDir == "":
		return c, errors.New("control plane: no state folder: name one")
	}
	if c.Listen == "" {
		c.Listen = fmt.Sprintf("0.0.0.0:%d", Port)
	}
	if c.TrustDomain == "" {
		c.TrustDomain = "cluster.local"
	}
	if _, err := spiffe.Parse(ID(c.TrustDomain).String()); err != nil {
		return c, fmt.Errorf("control plane: trust domain: %w", err)
	}
	if c.ClusterDomain == "" {
		c.ClusterDomain = "cluster.local"
	}
	if len(c.ClusterNetworks) == 0 {
		nets, err := policy.ParseNetworks(policy.DefaultNetworks)
		if err != nil {
			return c, fmt.Errorf("control plane: %w", err)
		}
		c.ClusterNetworks = nets
	}
	if c.DefaultInboundPolicy == policyapi.Default_DEFAULT_UNSPECIFIED {
		c.DefaultInboundPolicy = policyapi.Default_ALL_UNAUTHENTICATED
	}
	if c.ScrapeInterval == 0 {
		c.ScrapeInterval = metrics.DefaultInterval
	}
	if c.Window == 0 {
		c.Window = 70 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// catalog returns the catalog's part of the config.
func (c Config) catalog() catalog.Config {
	return catalog.Config{TrustDomain: c.TrustDomain, ClusterDomain: c.ClusterDomain, Networks: c.MeshNetworks, Hosts: c.HostAddresses, EndpointSlices: c.Cluster != nil}
}
