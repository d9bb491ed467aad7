package install

import (
	"context"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/test/cluster"
	"github.com/tunmesh/tunmesh/test/eyes"
)

// shell is where somebody with the cluster's kubeconfig types.
func (w *walk) shell() eyes.Shell {
	return func(ctx context.Context, line string) *exec.Cmd { return w.Here(ctx, "bash", "-c", line) }
}

// eyes asks the sample what people ask, as the cluster's administrator and as those
// who may less.
func (w *walk) eyes() {
	w.Script(w.t, `
kubectl -n emojivoto create serviceaccount tapper
kubectl -n emojivoto create rolebinding tapper --clusterrole=admin --serviceaccount=emojivoto:tapper`)
	w.t.Run("live", func(t *testing.T) { w.shell().Ask(t, append(eyes.Live(), eyes.Cluster()...)) })
	w.t.Run("wrong", func(t *testing.T) { w.shell().Ask(t, eyes.Wrong()) })
	w.t.Run("refused", func(t *testing.T) { w.shell().Ask(t, refused()) })
	w.t.Run("dashboard", func(t *testing.T) { w.shell().Dashboard(t, "").Guarded() })
	w.t.Run("dashboard of somebody who may less", func(t *testing.T) { w.console(t) })
}

// emptyEyes asks a cluster in which nothing is meshed yet.
func (w *walk) emptyEyes() {
	w.Script(w.t, "kubectl run outsider --image="+cluster.TestImage+` -- serve
kubectl wait --for=condition=Ready pod/outsider --timeout=2m`)
	w.t.Run("nothing is meshed", func(t *testing.T) {
		w.shell().Ask(t, eyes.Empty())
		w.shell().Dashboard(t, "").Empty()
	})
	w.Kubectl(w.t, "delete", "pod", "outsider", "--now")
}

const (
	viewer = "system:serviceaccount:emojivoto:viewer" // has role view in emojivoto
	tapper = "system:serviceaccount:emojivoto:tapper" // has role admin there
)

// refused are questions of people without the right, who are told which.
func refused() []eyes.Question {
	no := func(who, line, right string) eyes.Question {
		return eyes.Question{Line: line + " --as=" + who, Exit: 1, Err: who + `"? (cannot|may not) ` + right}
	}
	return []eyes.Question{
		{Line: "meshctl stat deploy -n emojivoto --as=" + viewer, Out: []string{`^voting +1/1`}},
		{Line: "meshctl edges deploy -n emojivoto --as=" + viewer, Out: []string{`^web +voting`}},
		no(viewer, "meshctl stat deploy -n tunmesh", `get.* "?deployments/stat"?.* in (the )?namespace "?tunmesh`),
		no(viewer, "meshctl stat deploy -A", `get.* "?deployments/stat"? `),
		no(viewer, "meshctl stat deploy -n emojivoto --from ns/tunmesh", `get.* "?namespaces/stat"?`),
		no(viewer, "meshctl stat-inbound deploy -n tunmesh", `get.* "?deployments/routes"?`),
		no(viewer, "meshctl edges po -n tunmesh", `get.* "?pods/edges"?`),
		no(viewer, "meshctl list -n tunmesh", `get.* "?pods/tap"?`),
		no(viewer, "meshctl endpoints mesh-control.tunmesh:8086", `get.* "?services/endpoints"?`),
		no(viewer, "meshctl diagnostics policy svc/mesh-control 8086 -n tunmesh", `get.* "?services/policy"?`),
		no(viewer, "meshctl why deploy/web mesh-control.tunmesh:8086 -n emojivoto", `get.* "?pods/stat"?.* in (the )?namespace "?tunmesh`),
		no(viewer, "meshctl tap deploy/voting -n emojivoto", `watch.* "?deployments/tap"?`),
		no(viewer, "meshctl top deploy/voting -n emojivoto", `watch.* "?deployments/tap"?`),
		{Line: "meshctl identity -n emojivoto --as=" + viewer, Exit: 1, Err: `^meshctl: ask pod emojivoto/\S+ for certificate: `},
		no(viewer, "kubectl get --raw '"+eyes.API+"/prometheus/api/v1/query?query=up'", `get.* "?prometheus/v1"?`),
		no(tapper, "meshctl tap deploy/voting -n emojivoto -o json", `watch.* "?deployments/tap/headers"?`),
		{Line: "meshctl tap deploy/voting -n emojivoto --as=" + tapper, Lasts: true, Out: []string{`^req .*:path=/emojivoto`}},
	}
}

// console: the page of somebody who may see one namespace is told no more than its
// user.
func (w *walk) console(t *testing.T) {
	b := w.shell().Dashboard(t, "--as="+viewer)
	own := []string{"Origin", b.Origin()}
	for _, c := range []struct {
		method, path string
		code         int
		says         string
	}{
		{"GET", "/namespaces/emojivoto/deployments/web/stat", http.StatusOK, `"web"`},
		{"GET", "/namespaces/tunmesh/deployments/-/stat", http.StatusForbidden, "deployments/stat"},
		{"GET", "/namespaces/-/deployments/-/stat", http.StatusForbidden, "deployments/stat"},
		{"GET", "/namespaces/tunmesh/pods/-/series", http.StatusForbidden, "pods/series"},
		{"GET", "/prometheus/api/v1/query?query=up", http.StatusForbidden, "prometheus/v1"},
		{"POST", "/watch/namespaces/emojivoto/deployments/web/tap", http.StatusForbidden, "deployments/tap"},
	} {
		if code, text := b.Get(c.method, eyes.API+c.path, own...); code != c.code || !strings.Contains(text, c.says) {
			t.Errorf("%s %s: %d %s", c.method, c.path, code, text)
		}
	}
}
