package control

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/tunmesh/tunmesh/control/admission"
	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/identity"
	"github.com/tunmesh/tunmesh/control/inject"
	"github.com/tunmesh/tunmesh/control/kube"
	"github.com/tunmesh/tunmesh/control/repair"
	"github.com/tunmesh/tunmesh/control/serving"
)

// Names of what the control plane lives from in a cluster, all in Namespace.
const (
	// AnchorsConfigMap has the trust anchors, PEM, under AnchorsKey.
	AnchorsConfigMap = "tunmesh-trust-anchors"
	AnchorsKey       = "ca-bundle.crt"
	// IssuerSecret has the issuer: a kubernetes.io/tls Secret, as cert-manager
	// keeps, or one with certificates and key together under IssuerKey.
	IssuerSecret = "tunmesh-identity-issuer"
	IssuerKey    = "issuer.pem"
	// WebhookSecret is the webhook's own authority; the control plane makes it.
	WebhookSecret = "tunmesh-injector-ca"
	// WebhookConfiguration has the injector's webhook, and WebhookService leads there.
	WebhookConfiguration = "tunmesh-injector"
	WebhookService       = "mesh-injector"
	// RepairLease is held by the one replica that evicts.
	RepairLease = "tunmesh-repair"
	// linkerdWebhook is there where Linkerd's own injector is.
	linkerdWebhook = "linkerd-proxy-injector-webhook-config"
)

// WebhookPort is where the injector listens unless told otherwise.
const WebhookPort = 8443

// Cluster says how a control plane lives in a Kubernetes cluster.
type Cluster struct {
	// Client is asked for everything; required.
	Client kube.Client
	// WebhookListen is the address of the injector. "" = none.
	WebhookListen string
	// CNINamespace is where the node agents live, which get a copy of the trust
	// anchors. "" = none.
	CNINamespace string
	// ProxyImage is the sidecars' image without its tag, ProxyVersion its tag and
	// what pods are marked with. Default: the project's own, and Config.Version.
	ProxyImage, ProxyVersion string
	// ProxyDefaults are configuration annotations of pods for which nobody says
	// otherwise.
	ProxyDefaults map[string]string
	// Repair evicts pods that are not meshed and should be, so that they are made
	// again; it needs WebhookListen and CNINamespace.
	Repair bool
}

// cluster is what a plane has more in a cluster.
type cluster struct {
	cfg     Cluster
	plane   *Plane
	source  *kube.Source
	live    *identity.Live
	inject  *admission.Server
	keeper  *serving.Keeper
	hooks   *kube.HookStore
	events  *kube.Events
	linkerd atomic.Bool // Linkerd's own injector is there
	asked   atomic.Pointer[asked]
	hooked  chan struct{} // closed when asked was read for the first time
	bare    unmeshed
	copy    anchorsCopy
	repair  *repair.Runner // nil: nothing is evicted
	server  *http.Server
}

// newCluster makes the parts that take the place of folders.
func newCluster(p *Plane, m *meters) (*cluster, error) {
	cfg := *p.cfg.Cluster
	if cfg.Client == nil {
		return nil, errors.New("control plane in a cluster: no client")
	}
	if cfg.ProxyVersion == "" {
		cfg.ProxyVersion = p.cfg.Version
	}
	c := &cluster{
		cfg: cfg, plane: p, live: identity.NewLive(p.log),
		events: kube.NewEvents(cfg.Client, ServiceAccount, p.log),
		hooks:  kube.NewHookStore(cfg.Client, Namespace, WebhookSecret, WebhookConfiguration),
		copy:   anchorsCopy{seen: make(chan *corev1.ConfigMap)},
		hooked: make(chan struct{}),
	}
	c.asked.Store(&asked{})
	var err error
	c.source, err = kube.NewSource(kube.SourceConfig{Client: cfg.Client, Catalog: p.catalog, Logger: p.log, Lag: m.lag})
	if err != nil {
		return nil, err
	}
	c.keeper = serving.NewKeeper(c.hooks, p.log, "the injector",
		WebhookService+"."+Namespace+".svc", WebhookService+"."+Namespace+".svc."+p.cfg.ClusterDomain)
	c.inject, err = admission.NewServer(admission.Config{
		Inject:    c.injection(),
		Namespace: c.annotations, Linkerd: c.linkerd.Load,
		Notice: func(n admission.Notice) { c.events.Warn(n.About, n.Reason, n.Message) },
		Logger: p.log,
	})
	if err != nil {
		return nil, err
	}
	if cfg.Repair {
		if cfg.WebhookListen == "" || cfg.CNINamespace == "" {
			return nil, errors.New("control plane in a cluster: repairing pods needs the injector and the node agents' namespace")
		}
		r := &repairs{c}
		if c.repair, err = repair.NewRunner(repair.Config{Look: r.look, Evict: r.evict, Logger: p.log}); err != nil {
			return nil, err
		}
	}
	c.server = &http.Server{
		Handler:           c.inject,
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: c.keeper.Certificate},
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, WriteTimeout: 15 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
	}
	return c, nil
}

// injection says what is injected, and that it has to be asked for.
func (c *cluster) injection() inject.Config {
	return inject.Config{Version: c.cfg.ProxyVersion, Image: c.cfg.ProxyImage, Defaults: c.cfg.ProxyDefaults, OptIn: true}
}

// lookup asks the API server for a pod that the catalog does not know.
func (c *cluster) lookup(ctx context.Context, k catalog.Key) (*catalog.Pod, error) {
	return kube.LookUpPod(ctx, c.cfg.Client, k)
}

// annotations are those of a namespace that a pod is made in. One that is not
// known yet is asked for: it and its pods may come from one manifest.
func (c *cluster) annotations(ctx context.Context, name string) (map[string]string, error) {
	n, err := c.namespace(ctx, name)
	if err != nil {
		return nil, err
	}
	return n.Annotations, nil
}

func (c *cluster) namespace(ctx context.Context, name string) (*catalog.Namespace, error) {
	n, ok := c.plane.catalog.Namespace(name)
	if !ok {
		var err error
		if n, err = kube.LookUpNamespace(ctx, c.cfg.Client, name); err != nil {
			return nil, err
		}
		if n == nil {
			return nil, fmt.Errorf("there is no namespace %s", name)
		}
	}
	return n, nil
}

// run follows what the control plane lives from, until ctx ends.
func (c *cluster) run(ctx context.Context, g *errgroup.Group) {
	client, log := c.cfg.Client, c.plane.log
	g.Go(func() error { return c.events.Run(ctx) })
	g.Go(func() error {
		kube.FollowConfigMap(ctx, client, Namespace, AnchorsConfigMap, log, func(m *corev1.ConfigMap) {
			var pem []byte
			if m != nil {
				pem = []byte(m.Data[AnchorsKey])
			}
			c.live.SetAnchors(ctx, "ConfigMap "+Namespace+"/"+AnchorsConfigMap+", key "+AnchorsKey, pem)
		})
		return nil
	})
	g.Go(func() error {
		kube.FollowSecret(ctx, client, Namespace, IssuerSecret, log, func(s *corev1.Secret) {
			cert, key := issuerOf(s)
			c.live.SetIssuer(ctx, "Secret "+Namespace+"/"+IssuerSecret, cert, key)
		})
		return nil
	})
	if c.cfg.CNINamespace != "" {
		g.Go(func() error { return c.copy.run(ctx, c) })
		g.Go(func() error {
			kube.FollowConfigMap(ctx, client, c.cfg.CNINamespace, AnchorsConfigMap, log, func(m *corev1.ConfigMap) { c.copy.heard(ctx, m) })
			return nil
		})
	}
	if c.cfg.WebhookListen == "" {
		return
	}
	g.Go(func() error { return c.keeper.Run(ctx) })
	g.Go(func() error { return c.bare.run(ctx, c) })
	if c.repair != nil {
		g.Go(func() error { return kube.Lead(ctx, client, Namespace, RepairLease, processName(), c.repair.Run) })
	}
	g.Go(func() error {
		kube.FollowSecret(ctx, client, Namespace, WebhookSecret, log, func(s *corev1.Secret) {
			c.hooks.Saw(s)
			var data map[string][]byte
			if s != nil {
				data = s.Data
			}
			c.keeper.Authority(ctx, data)
		})
		return nil
	})
	g.Go(func() error {
		first := sync.OnceFunc(func() { close(c.hooked) })
		kube.FollowWebhook(ctx, client, WebhookConfiguration, log, func(w *admissionregistrationv1.MutatingWebhookConfiguration) {
			c.keeper.Bundle(ctx, w != nil, bundleOf(w))
			a, err := askedOf(w)
			if err != nil {
				log.Warn("which pods the webhook is asked about is not known", "err", err)
			}
			c.asked.Store(&a)
			first()
		})
		return nil
	})
	g.Go(func() error {
		kube.FollowWebhook(ctx, client, linkerdWebhook, log, func(w *admissionregistrationv1.MutatingWebhookConfiguration) {
			c.linkerd.Store(w != nil)
		})
		return nil
	})
}

// issuerOf reads an issuer's certificates and key from either kind of Secret.
func issuerOf(s *corev1.Secret) (cert, key []byte) {
	if s == nil {
		return nil, nil
	}
	if both := s.Data[IssuerKey]; len(both) > 0 {
		return both, both
	}
	return s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey]
}

// bundleOf is what the API server believes; nil where its webhooks differ, which
// is to be put right.
func bundleOf(w *admissionregistrationv1.MutatingWebhookConfiguration) []byte {
	if w == nil || len(w.Webhooks) == 0 {
		return nil
	}
	first := w.Webhooks[0].ClientConfig.CABundle
	for _, h := range w.Webhooks[1:] {
		if string(h.ClientConfig.CABundle) != string(first) {
			return nil
		}
	}
	return first
}

// ready says what keeps the cluster's parts from answering.
func (c *cluster) ready() error {
	if c.live.Current() == nil {
		return fmt.Errorf("there is no certificate authority: %s", c.live.Problem())
	}
	if c.cfg.WebhookListen != "" {
		if _, err := c.keeper.Certificate(nil); err != nil {
			return err
		}
	}
	return nil
}
