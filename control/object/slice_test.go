package object

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tunmesh/tunmesh/control/catalog"
)

func TestEndpointSlice(t *testing.T) {
	yes, no, name, port, udp, empty := true, false, "http", int32(8080), corev1.ProtocolUDP, ""
	node, zone, host := "n1", "a", "db-0"
	in := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "shop", Name: "web-x", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port}, {Name: &empty, Port: &port, Protocol: &udp}, {}},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.1.0.1", "10.1.0.2"}, Conditions: discoveryv1.EndpointConditions{Ready: &yes}, NodeName: &node, Zone: &zone, Hostname: &host,
				TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: "db-0"},
				Hints:     &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "a"}, {Name: "b"}}, ForNodes: []discoveryv1.ForNode{{Name: "n1"}}}},
			{Addresses: []string{"10.1.0.3"}, Conditions: discoveryv1.EndpointConditions{Ready: &no}, Hints: &discoveryv1.EndpointHints{}},
			{Addresses: []string{"10.1.0.4"}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "other", Name: "db-0"}},
			{Addresses: []string{"10.1.0.5"}, TargetRef: &corev1.ObjectReference{Kind: "VM", Name: "db-0"}},
			{Addresses: []string{"fd00::1"}}, {Addresses: []string{"junk"}}, {},
		},
	}
	addr := netip.MustParseAddr
	want := &catalog.EndpointSlice{
		Key: catalog.Key{Namespace: "shop", Name: "web-x"}, Service: "web", Is4: true,
		Ports: []catalog.SlicePort{{Name: "http", Port: 8080, Transport: "TCP"}, {Port: 8080, Transport: "UDP"}, {Transport: "TCP"}},
		Endpoints: []catalog.SliceEndpoint{
			{Addr: addr("10.1.0.1"), Pod: "db-0", Hostname: "db-0", Node: "n1", Zone: "a", Ready: true, Hints: &catalog.Hints{Zones: []string{"a", "b"}, Nodes: []string{"n1"}}},
			{Addr: addr("10.1.0.3")}, {Addr: addr("10.1.0.4"), Ready: true}, {Addr: addr("10.1.0.5"), Ready: true},
		},
	}
	if d := cmp.Diff(want, EndpointSlice(in), cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Error(d)
	}
	in.AddressType = discoveryv1.AddressTypeFQDN
	if got := EndpointSlice(in); got != nil {
		t.Errorf("a slice of names is %+v", got)
	}
	in.AddressType, in.Labels = discoveryv1.AddressTypeIPv4, nil
	if got := EndpointSlice(in); got != nil {
		t.Errorf("a slice of no Service is %+v", got)
	}
}

func TestNode(t *testing.T) {
	got := Node(&corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{corev1.LabelTopologyZone: "a"}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}, {Type: corev1.NodeHostName, Address: "n1"}, {Type: corev1.NodeInternalIP, Address: "fd00::2"},
		}},
	})
	want := &catalog.Node{Name: "n1", Zone: "a", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fd00::2")}}
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Error(d)
	}
}
