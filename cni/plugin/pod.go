package plugin

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/tunmesh/tunmesh/cni/broker"
	"github.com/tunmesh/tunmesh/internal/annotation"
	"github.com/tunmesh/tunmesh/internal/handover"
)

// meshed decides by the pod's annotations alone. An error refuses the pod.
func (c *netConf) meshed() (bool, error) {
	a := c.RuntimeConfig.Annotations
	switch {
	case a == nil && c.WithoutAnnotations == WithoutAnnotationsPass:
		return false, nil
	case a == nil && c.WithoutAnnotations == WithoutAnnotationsRefuse:
		return false, failf(CodeRefused, "the container runtime handed no pod annotations over, and the network %s is configured to refuse such pods", c.Name)
	case a == nil:
		return false, failf(types.ErrInvalidNetworkConfig,
			"the container runtime handed no pod annotations over: declare the capability %q for %s and use a runtime that knows it, or choose withoutAnnotations: %q or %q",
			AnnotationsCapability, Type, WithoutAnnotationsPass, WithoutAnnotationsRefuse)
	case a[annotation.Injected] != "":
		return true, nil
	case a[annotation.Inject] == "enabled":
		return false, failf(CodeRefused,
			"the pod has %s: enabled but was not injected (%s is missing): without a sidecar it would run outside of the mesh; look at the injector, then make the pod again",
			annotation.Inject, annotation.Injected)
	}
	return false, nil
}

// parsePod takes the pod's name from CNI_ARGS (K8S_POD_*; others are ignored).
// It is empty where no Kubernetes is.
func parsePod(args string) (handover.Pod, error) {
	var p handover.Pod
	for pair := range strings.SplitSeq(args, ";") {
		if pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return p, failf(types.ErrInvalidEnvironmentVariables, "CNI_ARGS: %q is not KEY=VALUE", pair)
		}
		switch key {
		case "K8S_POD_NAMESPACE":
			p.Namespace = value
		case "K8S_POD_NAME":
			p.Name = value
		case "K8S_POD_UID":
			p.UID = value
		}
	}
	return p, nil
}

// options are what the pod's annotations choose for its network.
type options struct {
	queues         int
	allowProtocols []uint8
	// handed are those that the sidecar is told.
	handed map[string]string
}

func parseOptions(a map[string]string) (o options, err error) {
	if o.queues, err = parseQueues(a[annotation.ProxyQueues]); err != nil {
		return o, failf(CodeRefused, "the pod's annotation %s: %v", annotation.ProxyQueues, err)
	}
	if o.allowProtocols, err = parseProtocols(a[annotation.AllowIPProtocols]); err != nil {
		return o, failf(CodeRefused, "the pod's annotation %s: %v", annotation.AllowIPProtocols, err)
	}
	o.handed = annotation.Handed(a)
	return o, nil
}

func parseQueues(s string) (int, error) {
	if s == "" {
		return 1, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > broker.MaxQueues {
		return 0, fmt.Errorf("%q: want a number from 1 to %d", s, broker.MaxQueues)
	}
	return n, nil
}

func parseProtocols(s string) ([]uint8, error) {
	var out []uint8
	for f := range strings.SplitSeq(s, ",") {
		if f = strings.TrimSpace(f); f == "" {
			continue
		}
		n, err := strconv.ParseUint(f, 10, 8)
		if err != nil {
			return nil, fmt.Errorf("%q: want IP protocol numbers from 1 to 255, separated by commas", f)
		}
		switch n {
		case 6:
			return nil, fmt.Errorf("protocol 6 is TCP, which never passes unproxied")
		case 0, 43, 44, 60, 135, 139, 140:
			return nil, fmt.Errorf("protocol %d is an IPv6 extension header, behind which anything may follow", n)
		}
		out = append(out, uint8(n))
	}
	return out, nil
}
