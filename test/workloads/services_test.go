package workloads

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/tunmesh/tunmesh/test/cluster"
)

func url(a netip.Addr, port uint16) string {
	return "http://" + netip.AddrPortFrom(a, port).String() + "/"
}

// outside asks for a URL from outside of the cluster, from where the mesh is not:
// who answered, and whom that took for its client.
func (m team) outside(ctx context.Context, url string) (a answer, err error) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: m.Dial, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return a, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return a, err
	}
	return parse(string(raw))
}

// reaches waits until somebody outside gets an answer of a server. true says that
// the server knows him by his own address; otherwise a node stands in for him.
func (m team) reaches(url, server string, known bool) {
	m.t.Helper()
	cluster.Eventually(m.t, limit, "from outside "+url, func(ctx context.Context) error {
		a, err := m.outside(ctx, url)
		if err != nil {
			return err
		}
		byNode := false
		for _, n := range m.Nodes() {
			byNode = byNode || slices.Contains(n.Addrs(), a.client)
		}
		// Of a Service a node may stand in by its address among the pods, too.
		if a.server != server || known && (byNode || !sameNetwork(a.client, m.Node(1).Addrs())) {
			return fmt.Errorf("%s answered, and took its client for %s", a.server, a.client)
		}
		return nil
	})
}

// sameNetwork reports an address of the nodes' own network.
func sameNetwork(a netip.Addr, nodes []netip.Addr) bool {
	return slices.ContainsFunc(nodes, func(n netip.Addr) bool {
		bits := 24
		if n.Is6() {
			bits = 64
		}
		return a.BitLen() == n.BitLen() && netip.PrefixFrom(n, bits).Masked().Contains(a)
	})
}

// testHostPort: a port of the node leads to the pod, from outside, from the node
// itself and from pods of both nodes.
func testHostPort(m team) {
	m.make(strings.Replace(server("hostport", "  nodeName: node2"), "{containerPort: 8080}", "{containerPort: 8080, hostPort: 18080}", 1))
	m.ready("pod/hostport")
	for _, a := range m.Node(2).Addrs() {
		m.reaches(url(a, 18080), "hostport", true)
		for _, from := range []string{"client1", "client2"} {
			m.someone(from, url(a, 18080), "hostport")
		}
		cluster.Eventually(m.t, limit, "from the node", func(ctx context.Context) error {
			out, err := m.Node(2).Run(ctx, "curl", "-gsS", "--max-time", "10", url(a, 18080))
			if err == nil && !strings.HasPrefix(out, "hostport ") {
				err = fmt.Errorf("%q", out)
			}
			return err
		})
	}
}

// someone asks from a pod; what stands between may hide the pod's address.
func (m team) someone(from, url, server string) {
	m.t.Helper()
	cluster.Eventually(m.t, limit, from+" gets "+url, func(ctx context.Context) error {
		out, err := m.inPod(ctx, from, "get", url)
		if err == nil && !strings.HasPrefix(out, server+" ") {
			err = fmt.Errorf("%q", out)
		}
		return err
	})
}

// testNodePort: a port of every node leads to the Service. Where only the pod's own
// node answers for it, the server sees who asks.
func testNodePort(m team) {
	port := func(n int) string { return fmt.Sprintf("[{name: http, port: 8080, nodePort: %d}]", n) }
	with := func(name string, n int, spec string) string {
		return strings.Replace(service(name, "app: web1", "  type: NodePort\n"+spec),
			"[{name: http, port: 8080}, {name: tcp, port: 8081}, {name: grpc, port: 8082}]", port(n), 1)
	}
	m.make(with("nodeport", 30080, ""), with("nodeport-local", 30081, "  externalTrafficPolicy: Local"))
	for _, n := range m.Nodes() {
		for _, a := range n.Addrs() {
			m.reaches(url(a, 30080), "web1", false)
			m.someone("client1", url(a, 30080), "web1")
			m.someone("client2", url(a, 30080), "web1")
		}
	}
	for _, a := range m.Node(1).Addrs() {
		m.reaches(url(a, 30081), "web1", true)
	}
}

// testHeadless: its name is the pods' addresses, each of which is a pod of the mesh.
func testHeadless(m team) {
	m.make(service("headless", "tier: server", "  clusterIP: None"))
	want := slices.Concat(m.addrs("web1"), m.addrs("web2"))
	slices.SortFunc(want, netip.Addr.Compare)
	cluster.Eventually(m.t, limit, "its name has all pods", func(ctx context.Context) error {
		out, err := m.inPod(ctx, "client1", "lookup", "headless")
		if err != nil {
			return err
		}
		got := parseAddrs(m.t, out)
		slices.SortFunc(got, netip.Addr.Compare)
		if !slices.Equal(got, want) {
			return fmt.Errorf("%v, not %v", got, want)
		}
		return nil
	})
	m.gets("client1", "http://headless:8080/", "web1", "web2")
	m.says("client1", "headless:8081", "web1", "web2")
	for _, a := range m.addrs("web2") {
		m.securely("web2", requests, func() { m.gets("client1", url(a, 8080), "web2") })
	}
}

// testStatefulSet: each pod has a name of its own, also while it is not ready.
func testStatefulSet(m team) {
	m.make(service("peers", "app: peer", "  clusterIP: None\n  publishNotReadyAddresses: true"), fmt.Sprintf(`
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: peer}
spec:
  serviceName: peers
  replicas: 2
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: peer}}
  template:
    metadata:
      labels: {app: peer}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: app
        image: %s
        args: [all]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
`, cluster.TestImage))
	m.kubectl("rollout", "status", "statefulset/peer", "--timeout=3m")
	m.securely("peer-1", requests, func() { m.gets("peer-0", "http://peer-1.peers:8080/", "peer-1") })
	m.securely("peer-0", requests, func() { m.gets("peer-1", "http://peer-0.peers."+namespace+".svc.cluster.local:8080/", "peer-0") })
	m.securely("peer-0", connections, func() { m.says("peer-1", "peer-0.peers:8081", "peer-0") })
	m.gets("peer-0", "http://peer-0.peers:8080/", "peer-0")

	if got := m.plain("peer-0"); len(got) > 0 {
		m.t.Errorf("only the mesh asked it: %s", got)
	}

	// A pod that comes again has another address and the same name.
	before := m.addrs("peer-1")
	m.kubectl("delete", "pod", "peer-1", "--wait")
	cluster.Eventually(m.t, limit, "the pod is back", func(ctx context.Context) error {
		out, err := m.Run(ctx, nil, "-n", namespace, "get", "pod", "peer-1", "-o", "jsonpath={.status.podIP}{.status.conditions[?(@.type=='Ready')].status}")
		if err == nil && (!strings.HasSuffix(out, "True") || strings.HasPrefix(out, before[0].String()+"T")) {
			err = errNotYet
		}
		return err
	})
	m.securely("peer-1", requests, func() { m.gets("peer-0", "http://peer-1.peers:8080/", "peer-1") })
}

// testExternalName: the name leads to another name, of the mesh here, and what
// stands behind that is asked as the mesh does.
func testExternalName(m team) {
	m.make(service("only", "app: web2", ""), `
apiVersion: v1
kind: Service
metadata: {name: elsewhere}
spec:
  type: ExternalName
  externalName: only.`+namespace+`.svc.cluster.local
`)
	m.securely("web2", requests, func() { m.gets("client2", "http://elsewhere:8080/", "web2") })
	m.securely("web2", connections, func() { m.says("client2", "elsewhere:8081", "web2") })
}

// testTwoNodes: pods of two nodes, and of one, talk by mTLS, and each server knows
// the address and the identity of its client.
func testTwoNodes(m team) {
	for _, from := range []string{"client1", "client2"} {
		for _, to := range []string{"web1", "web2"} {
			a := m.addrs(to)[0]
			m.securely(to, requests, func() { m.gets(from, url(a, 8080), to) })
			m.securely(to, connections, func() { m.says(from, netip.AddrPortFrom(a, 8081).String(), to) })
		}
	}
	m.gets("client1", "http://both:8080/", "web1", "web2")
	m.gets("client1", "http://both:8080/", "web2")
	m.gets("client1", "http://both:8080/", "web1")

	// What tap shows is what passed between the nodes.
	m.tapped("web2", "client1", url(m.addrs("web2")[0], 8080)+"tapped")
}

// tapped asks until a tap of the server has shown the request, as one by mTLS.
func (m team) tapped(server, client, url string) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), limit)
	defer cancel()
	cmd := m.Here(ctx, "meshctl", "-n", namespace, "tap", "pod/"+server, "--path", "/tapped")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		m.t.Fatal(err)
	}
	seen := make(chan string, 1)
	go func() { // ends with the tap, which ends with its context
		defer close(seen)
		var text strings.Builder
		buf := make([]byte, 4096)
		for {
			n, err := out.Read(buf)
			text.Write(buf[:n])
			for line := range strings.Lines(text.String()) {
				if strings.Contains(line, ":path=/tapped") && strings.Contains(line, "tls=true") {
					seen <- line
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	cluster.Eventually(m.t, limit, "tap shows the request", func(ctx context.Context) error {
		if _, err := m.inPod(ctx, client, "get", url); err != nil {
			return err
		}
		select {
		case line := <-seen:
			if line == "" {
				m.t.Fatal("tap ended, and had not shown the request")
			}
			return nil
		case <-time.After(time.Second):
			return errNotYet
		}
	})
	cancel()
	_ = cmd.Wait() // killed
}

// testDualStack: of both families each reaches the server by mTLS, at the pod and
// at the Service, and the server sees the client by its address of that family.
func testDualStack(m team) {
	service := parseAddrs(m.t, m.kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIPs[*]}"))
	if len(service) != 2 || service[0].BitLen() == service[1].BitLen() {
		m.t.Fatalf("the Service has %v", service)
	}
	for _, from := range []string{"client1", "client2"} {
		for _, a := range slices.Concat(m.addrs("web1"), service) {
			m.securely("web1", requests, func() { m.gets(from, url(a, 8080), "web1") })
			m.securely("web1", connections, func() { m.says(from, netip.AddrPortFrom(a, 8081).String(), "web1") })
		}
		for _, a := range m.addrs("web1") {
			m.family(from, url(a, 8080), a.Is6())
		}
		m.gets(from, "http://web:8080/", "web1")
	}
	// Who is not in the mesh is seen by either address, too.
	for _, a := range m.addrs("web1") {
		m.reaches(url(a, 8080), "web1", true)
	}
}

// family asks a pod at its own address, which sees the client's of that family.
func (m team) family(from, url string, v6 bool) {
	m.t.Helper()
	cluster.Eventually(m.t, limit, from+" gets "+url, func(ctx context.Context) error {
		out, err := m.inPod(ctx, from, "get", url)
		if err != nil {
			return err
		}
		a, err := parse(out)
		if err == nil && a.client.Is6() != v6 {
			err = fmt.Errorf("the client was taken for %s", a.client)
		}
		return err
	})
}

// testOneFamily: Services that have only one of both.
func testOneFamily(m team) {
	for _, family := range []string{"IPv4", "IPv6"} {
		name := "only-" + strings.ToLower(family)
		m.make(strings.Replace(service(name, "app: web2", "  ipFamilies: ["+family+"]"), "PreferDualStack", "SingleStack", 1))
		m.securely("web2", requests, func() { m.gets("client1", "http://"+name+":8080/", "web2") })
		m.securely("web2", connections, func() { m.says("client1", name+":8081", "web2") })
	}
}
