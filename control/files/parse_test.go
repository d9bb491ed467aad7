package files_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/control/files"
)

const deployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: app
        image: example/web
        command: [/bin/web]
        ports: [{name: http, containerPort: 8080}]
`

func parse(t *testing.T, text string) *files.Set {
	t.Helper()
	s, err := files.Parse("f.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestParseFillsInDefaults(t *testing.T) {
	s := parse(t, deployment+`
---
# a comment alone
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80}]
--- # with a comment
apiVersion: v1
kind: Secret
metadata: {name: s}
data: {a: Yg==}
stringData: {c: d}
`)
	d := s.Deployments[0]
	spec := d.Spec.Template.Spec
	if d.Namespace != "default" || *d.Spec.Replicas != 1 || spec.ServiceAccountName != "default" || string(spec.Containers[0].Ports[0].Protocol) != "TCP" {
		t.Errorf("deployment's defaults: %+v", d)
	}
	if p := s.Services[0].Spec.Ports[0]; p.TargetPort.IntVal != 80 || p.Protocol != "TCP" {
		t.Errorf("service port's defaults: %+v", p)
	}
	if got := s.Secrets[0].Data; string(got["a"]) != "b" || string(got["c"]) != "d" {
		t.Errorf("secret's data: %q", got)
	}
	if o := s.Origin(s.Secrets[0]); o.String() != "f.yaml, document 4" {
		t.Errorf("origin: %s", o)
	}
	if err := files.Check(s); err != nil {
		t.Error(err)
	}
}

func TestParseReadsJSONAndLists(t *testing.T) {
	s := parse(t, `{"apiVersion":"v1","kind":"List","items":[
		{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"x"}},
		{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"a","namespace":"x"}}]}`)
	if len(s.Namespaces) != 1 || len(s.ServiceAccounts) != 1 || s.ServiceAccounts[0].Namespace != "x" {
		t.Errorf("got %+v", s)
	}
}

// TestParseErrors: each says file, document, object and path, and what is wrong.
func TestParseErrors(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"unknown field", strings.Replace(deployment, "image:", "imagee:", 1),
			`f.yaml, document 1: Deployment web: spec.template.spec.containers[0].imagee: unknown field`},
		{"field of another case", strings.Replace(deployment, "containerPort", "containerport", 1),
			`f.yaml, document 1: Deployment web: spec.template.spec.containers[0].ports[0].containerport: unknown field`},
		{"field twice", "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, name: b}\n",
			`f.yaml, document 1: line 3: key "name" already set in map`},
		{"field twice in JSON", `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a","name":"b"}}`,
			`f.yaml, document 1: Namespace b: metadata.name: written twice`},
		{"wrong type", strings.Replace(deployment, "8080", "eighty", 1),
			`f.yaml, document 1: Deployment web: spec.template.spec.containers.ports.containerPort: a string where a number belongs`},
		{"unknown kind", "apiVersion: v1\nkind: Sevice\nmetadata: {name: a}\n",
			`f.yaml, document 1: Sevice a: kind: Sevice of v1 is not known: the kinds that are read are ConfigMap, DaemonSet, Deployment, Namespace, Pod, Secret, Service, ServiceAccount, StatefulSet`},
		{"unknown apiVersion", strings.Replace(deployment, "apps/v1", "apps/v1beta1", 1),
			`f.yaml, document 1: Deployment web: apiVersion: "apps/v1beta1" is not known for kind Deployment: write apps/v1`},
		{"well-known kind of a strange group", "apiVersion: example.com/v1\nkind: Ingress\nmetadata: {name: a}\n",
			`f.yaml, document 1: Ingress a: kind: Ingress of example.com/v1 is not known: the kinds that are read are ConfigMap, DaemonSet, Deployment, Namespace, Pod, Secret, Service, ServiceAccount, StatefulSet`},
		{"no kind", "a: b\n", `f.yaml, document 1: kind: missing: every object says apiVersion and kind`},
		{"no apiVersion", "kind: Pod\nmetadata: {name: a}\n", `f.yaml, document 1: Pod a: apiVersion: missing: every object says apiVersion and kind`},
		{"no name", "apiVersion: v1\nkind: Namespace\n", `f.yaml, document 1: Namespace : metadata.name: missing: every object has a name`},
		{"a namespace in a namespace", "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, namespace: b}\n",
			`f.yaml, document 1: Namespace b/a: metadata.namespace: a Namespace belongs to no namespace: remove it`},
		{"not an object", "- a\n", `f.yaml, document 1: not a Kubernetes object: a list where an object belongs`},
		{"a name that YAML takes for a truth", "apiVersion: v1\nkind: Namespace\nmetadata: {name: yes}\n",
			`f.yaml, document 1: metadata.name: not a Kubernetes object: a bool where text belongs: put quotes round it`},
		{"text", "hello\n", `f.yaml, document 1: not a Kubernetes object: a string where an object belongs`},
		{"broken YAML, in the second document", deployment + "---\na: [\n", `f.yaml, document 2: line 16: did not find expected node content`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, err := files.Parse("f.yaml", []byte(tc.text))
			if err == nil {
				t.Fatalf("accepted: %+v", s)
			}
			if err.Error() != tc.want {
				t.Errorf("error\n%s\nwant\n%s", err, tc.want)
			}
			var fe *files.Error
			if !errors.As(err, &fe) {
				t.Errorf("error is a %T", err)
			}
		})
	}
}

func TestParseReportsEverything(t *testing.T) {
	_, err := files.Parse("f.yaml", []byte("apiVersion: v1\nkind: Pdo\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: b, nmae: c}\nspecs: {}\n"))
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"document 1: Pdo a: kind", "document 2: Pod b: metadata.nmae: unknown field", "document 2: Pod b: specs: unknown field"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in\n%s", want, err)
		}
	}
}

func TestSkippedKindsMakeOneWarning(t *testing.T) {
	s := parse(t, `
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec: {anything: {goes: here}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: r, namespace: x}
`)
	if err := files.Check(s); err != nil {
		t.Error(err)
	}
	got := files.Warnings(s)
	if len(got) != 1 || got[0] != "not used here, left out: Ingress web, Role x/r" {
		t.Errorf("warnings %q", got)
	}
}

func TestWarnings(t *testing.T) {
	s := parse(t, deployment+`
---
apiVersion: v1
kind: Service
metadata:
  name: lonely
  annotations: {timeout.tunmesh.io/request: soon, retry.tunmesh.io/http: 5xx, retry.linkerd.io/limit: "0"}
spec: {type: NodePort, selector: {app: nobody}, ports: [{port: 80}]}
`)
	want := []string{"Service default/lonely: type NodePort is served inside the cluster alone", "Service default/lonely: its selector matches no pod",
		`Service default/lonely: annotation timeout.tunmesh.io/request, ignored: "soon" is not a duration: write a whole number and ms, s, m, h or d, as in 400ms`,
		`Service default/lonely: annotation retry.linkerd.io/limit, ignored: "0" is not a number of retries from 1 to 100`}
	got := files.Warnings(s)
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("warnings %q, want %q", got, want)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.yaml": deployment, "sub/b.yml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n", ".hidden.yaml": "broken: [", "README.md": "no manifest",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s, err := files.Load(strings.NewReader("apiVersion: v1\nkind: Namespace\nmetadata: {name: yy}\n"), dir, "-")
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Deployments) != 1 || len(s.Namespaces) != 2 {
		t.Errorf("got %+v", s)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none.yaml"): "no such file",
		t.TempDir():                     "no file named *.yaml",
	} {
		if _, err := files.Load(nil, path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("load %s: %v, want %q", path, err, want)
		}
	}
}

func TestParseRefusesHugeFiles(t *testing.T) {
	if _, err := files.Parse("f.yaml", make([]byte, 8<<20+1)); err == nil || !strings.Contains(err.Error(), "split the file") {
		t.Errorf("got %v", err)
	}
}

// FuzzParse: any input is a set that can be checked, or an error that says where.
func FuzzParse(f *testing.F) {
	f.Add([]byte(deployment))
	f.Add([]byte("---\n---\na: &a [*a]\n"))
	f.Add([]byte(`{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"volumes":[{"name":"v","projected":{"sources":[{}]}}],"containers":[{"name":"c","env":[{"name":"E","valueFrom":{}}],"readinessProbe":{}}]}}]}`))
	f.Add([]byte("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {clusterIP: None, ports: [{port: -1, targetPort: x}]}\n"))
	f.Add([]byte("apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: a}\nspec: {serviceName: b, selector: {matchExpressions: [{key: a, operator: Foo}]}}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := files.Parse("f.yaml", data)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "f.yaml, document ") {
				t.Fatalf("error without a place: %v", err)
			}
			return
		}
		if err := files.Check(s); err != nil && !strings.HasPrefix(err.Error(), "f.yaml, document ") {
			t.Fatalf("error without a place: %v", err)
		}
		files.Warnings(s)
		s.Templates()
	})
}
