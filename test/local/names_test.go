package local_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/test/meshtest"
)

const stateful = `apiVersion: v1
kind: Service
metadata: {name: db, namespace: default}
spec:
  clusterIP: None
  selector: {app: db}
  ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: dual, namespace: default}
spec:
  ipFamilyPolicy: RequireDualStack
  ipFamilies: [IPv6, IPv4]
  clusterIP: "fd00:10:96::77"
  clusterIPs: ["fd00:10:96::77", 10.96.0.77]
  selector: {app: db}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: default}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata:
      labels: {app: db}
      annotations: {tunmesh.io/inject: enabled}
    spec:
      containers:
        - name: app
          image: testapp
          command: [testapp, serve]
          readinessProbe: {tcpSocket: {port: 8081}, periodSeconds: 1}
`

// TestNamesAndFamilies reaches meshed pods by every kind of name and address
// that Kubernetes has, over IPv4 and IPv6, always under mTLS.
func TestNamesAndFamilies(t *testing.T) {
	m := meshtest.Up(t, bin, "names", stateful, meshtest.Client("client", true, ""))
	pods := map[string]meshtest.Pod{"db-0": m.Pod(t, "db-0"), "db-1": m.Pod(t, "db-1")}
	asked := 0
	ask := func(host string, port int) string {
		t.Helper()
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		r := meshtest.JSON[response](t, m, "client", "testapp", "http", fmt.Sprintf("http://%s:%d/", host, port))
		if r.Status != 200 {
			t.Errorf("%s: %+v", host, r)
		}
		asked++
		return r.Body
	}
	for name, pod := range pods {
		for _, host := range append([]string{name + ".db", name + ".db.default.svc.cluster.local"}, pod.IPs...) {
			if body := ask(host, 8080); !strings.Contains(body, name) {
				t.Errorf("%s was answered by %q, want %s", host, body, name)
			}
		}
		if len(pod.IPs) != 2 || !strings.Contains(pod.IPs[0]+pod.IPs[1], ":") {
			t.Errorf("%s has the addresses %v, want one of each family", name, pod.IPs)
		}
	}
	for _, host := range []string{"db", "db.default", "db.default.svc.cluster.local"} {
		ask(host, 8080)
	}
	for _, host := range []string{"dual", "dual.default.svc", "fd00:10:96::77", "10.96.0.77"} {
		ask(host, 80)
	}
	// What the servers' sidecars saw was all of it, and all of it was secured.
	meshtest.Eventually(t, 15*time.Second, "all requests in the servers' metrics", func() bool {
		all, secured := 0, 0
		for name := range pods {
			text := meshtest.JSON[response](t, m, name, "testapp", "http", "http://127.0.0.1:4191/metrics").Body
			all += sum(text, "request_total", `direction="inbound"`)
			secured += sum(text, "request_total", `direction="inbound"`, `tls="true"`, `client_id="default.default.`)
		}
		return all == asked && secured == asked
	})
}
