package files_test

import (
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/control/files"
)

// whole is a cluster in which every kind of reference is good.
const whole = `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: web, namespace: shop}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: conf, namespace: shop}
data: {mode: fast}
---
apiVersion: v1
kind: Secret
metadata: {name: keys, namespace: shop}
stringData: {token: abc}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  ports: [{name: web, port: 80, targetPort: http}, {name: admin, port: 81, targetPort: 9000}]
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: None, selector: {app: db}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop, annotations: {config.tunmesh.io/opaque-ports: "9000"}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      serviceAccountName: web
      initContainers:
      - {name: mesh-proxy, image: sidecar, restartPolicy: Always}
      containers:
      - name: app
        image: example/web
        command: [/bin/web]
        ports: [{name: http, containerPort: 8080}]
        env:
        - {name: MODE, valueFrom: {configMapKeyRef: {name: conf, key: mode}}}
        - {name: TOKEN, valueFrom: {secretKeyRef: {name: keys, key: token}}}
        - {name: MAYBE, valueFrom: {secretKeyRef: {name: none, key: token, optional: true}}}
        - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: APP, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}
        - {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
        envFrom: [{configMapRef: {name: conf}}, {secretRef: {name: keys}}]
        volumeMounts: [{name: scratch, mountPath: /scratch}, {name: conf, mountPath: /conf}]
        readinessProbe: {httpGet: {path: /ready, port: http}}
        livenessProbe: {exec: {command: [/bin/true]}}
      volumes:
      - {name: scratch, emptyDir: {}}
      - {name: conf, configMap: {name: conf, items: [{key: mode, path: m}]}}
      - name: all
        projected:
          sources:
          - {serviceAccountToken: {path: token, audience: a}}
          - {secret: {name: keys, items: [{key: token, path: t}]}}
          - {downwardAPI: {items: [{path: l, fieldRef: {fieldPath: metadata.labels}}]}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      containers: [{name: db, image: db, command: [/bin/db], startupProbe: {tcpSocket: {port: 1}}, readinessProbe: {grpc: {port: 2}}}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: log}
spec:
  selector: {matchExpressions: [{key: app, operator: In, values: [log]}]}
  template:
    metadata: {labels: {app: log}}
    spec:
      containers: [{name: log, image: log, command: [/bin/log]}]
---
apiVersion: v1
kind: Pod
metadata: {name: bare}
spec:
  containers: [{name: bare, image: bare, command: [/bin/bare]}]
`

func TestWholeIsGood(t *testing.T) {
	s := parse(t, whole)
	if err := files.Check(s); err != nil {
		t.Fatal(err)
	}
	if got := files.Warnings(s); len(got) > 0 {
		t.Errorf("warnings %q", got)
	}
	var kinds []string
	for _, tm := range s.Templates() {
		kinds = append(kinds, tm.Kind+" "+tm.Object.GetName())
	}
	if got := strings.Join(kinds, ", "); got != "Deployment web, StatefulSet db, DaemonSet log, Pod bare" {
		t.Errorf("templates: %s", got)
	}
}

// TestCheckErrors breaks one thing of the whole at a time.
func TestCheckErrors(t *testing.T) {
	for _, tc := range []struct{ name, old, new, want string }{
		{"image without command", "command: [/bin/web]", "args: [x]",
			`f.yaml, document 7: Deployment shop/web: spec.template.spec.containers[0].command: missing: images are not pulled here, so what image "example/web" would run must be said: add command: [PROGRAM] (and args), a program of this machine`},
		{"namespace", "metadata: {name: shop}", "metadata: {name: shoq}", `Service shop/web: metadata.namespace: namespace "shop" is not declared: add a Namespace object of that name`},
		{"service account", "metadata: {name: web, namespace: shop}\n---\napiVersion: v1\nkind: ConfigMap", "metadata: {name: other, namespace: shop}\n---\napiVersion: v1\nkind: ConfigMap",
			`spec.template.spec.serviceAccountName: there is no ServiceAccount "web" in namespace shop: add one`},
		{"config map of env", "configMapKeyRef: {name: conf", "configMapKeyRef: {name: conv", `spec.template.spec.containers[0].env[0].valueFrom.configMapKeyRef.name: there is no ConfigMap "conv" in namespace shop: add one, or set optional: true`},
		{"key of config map", "{mode: fast}", "{speed: fast}", `spec.template.spec.containers[0].env[0].valueFrom.configMapKeyRef.key: ConfigMap shop/conf has no key "mode"`},
		{"key of config map in a volume", "items: [{key: mode", "items: [{key: made", `spec.template.spec.volumes[1].configMap.items[0].key: there is no key "made"`},
		{"secret of envFrom", "secretRef: {name: keys}", "secretRef: {name: kyes}", `spec.template.spec.containers[0].envFrom[1].secretRef.name: there is no Secret "kyes" in namespace shop`},
		{"key of secret", "secretKeyRef: {name: keys, key: token}", "secretKeyRef: {name: keys, key: tokn}", `has no key "tokn"`},
		{"projected secret", "secret: {name: keys, items", "secret: {name: kyes, items", `spec.template.spec.volumes[2].projected.sources[1].secret.name: there is no Secret "kyes"`},
		{"field of pod", "fieldPath: status.podIP", "fieldPath: status.ip", `env[3].valueFrom.fieldRef.fieldPath: "status.ip" is not a field that pods can read`},
		{"resource field", "resource: limits.cpu", "resource: cpu", `env[5].valueFrom.resourceFieldRef.resource: "cpu" is not known`},
		{"env name", "name: MODE,", "name: \"A=B\",", `env[0].name: a valid environment variable name must consist`},
		{"volume of mount", "name: scratch, mountPath", "name: scrath, mountPath", `volumeMounts[0].name: the pod has no volume "scrath"`},
		{"mount path", "mountPath: /scratch", "mountPath: scratch", `volumeMounts[0].mountPath: "scratch" is not an absolute path`},
		{"volume type", "emptyDir: {}", "hostPath: {path: /}", `spec.template.spec.volumes[0]: the type of volume "scratch" is not known here: use emptyDir, configMap, secret, downwardAPI or projected`},
		{"probe's port", "port: http}}", "port: htp}}", `containers[0].readinessProbe.httpGet.port: container "app" has no port named "htp"`},
		{"probe of no kind", "livenessProbe: {exec: {command: [/bin/true]}}", "livenessProbe: {periodSeconds: 3}", `livenessProbe: says no way to probe`},
		{"service's named port", "targetPort: http}", "targetPort: web}", `Service shop/web: spec.ports[0].targetPort: no container of the selected pods has a TCP port named "web"`},
		{"service's port", "port: 81,", "port: 65536,", `Service shop/web: spec.ports[1].port: 65536 is not a port from 1 to 65535`},
		{"service's port name", "{name: admin, port", "{port", `spec.ports[1].name: missing: with several ports each has a name`},
		{"service's port twice", "port: 81,", "port: 80,", `spec.ports[1].port: 80/TCP is written twice`},
		{"cluster IP", "clusterIP: None", "clusterIP: nowhere", `Service shop/db: spec.clusterIPs[0]: "nowhere" is not an IP address (or None)`},
		{"selector", "selector: {matchLabels: {app: web}}", "selector: {matchLabels: {app: wep}}", `spec.template.metadata.labels: the selector app=wep does not match them`},
		{"no selector", "selector: {matchLabels: {app: db}}", "revisionHistoryLimit: 1", `StatefulSet shop/db: spec.selector: missing`},
		{"replicas", "replicas: 2", "replicas: -2", `spec.replicas: -2: a number of replicas is 0 or more`},
		{"stateful set's service", "serviceName: db", "serviceName: bd", `StatefulSet shop/db: spec.serviceName: there is no Service "bd" in namespace shop`},
		{"container's port", "containerPort: 8080", "containerPort: 0", `containers[0].ports[0].containerPort: 0 is not a port from 1 to 65535`},
		{"container twice", "- {name: mesh-proxy", "- {name: app, command: [x]", `containers[0].name: "app" is another container's name too`},
		{"object name", "metadata: {name: bare}", "metadata: {name: Bare}", `Pod default/Bare: metadata.name: a lowercase RFC 1123 subdomain`},
		{"label", "labels: {app: log}", "labels: {app: log, x: \"a b\"}", `spec.template.metadata.labels[x]: a valid label must be`},
		{"annotation", `opaque-ports: "9000"`, `opaque-ports: "9000-"`, `metadata.annotations[config.tunmesh.io/opaque-ports]: parse ports "9000-"`},
		{"no containers", "containers: [{name: bare, image: bare, command: [/bin/bare]}]", "hostname: x", `Pod default/bare: spec.containers: missing`},
		{"the same twice", "metadata: {name: bare}", "metadata: {name: bare}\nspec: {containers: [{name: a, command: [a]}]}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: bare}", `f.yaml, document 11: Pod default/bare: written before, in f.yaml, document 10: remove one of them`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			text := strings.Replace(whole, tc.old, tc.new, 1)
			if text == whole {
				t.Fatalf("the whole has no %q", tc.old)
			}
			s, err := files.Parse("f.yaml", []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			if err := files.Check(s); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error\n%v\nwant in it\n%s", err, tc.want)
			}
		})
	}
}
