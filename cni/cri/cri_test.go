package cri_test

import (
	"context"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimev1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/tunmesh/tunmesh/cni/cri"
)

// runtime answers as containerd does, by the interface's own code.
type runtime struct {
	runtimev1.UnimplementedRuntimeServiceServer
	containers []*runtimev1.Container
	info       map[string]map[string]string
}

func (r *runtime) ListContainers(_ context.Context, q *runtimev1.ListContainersRequest) (*runtimev1.ListContainersResponse, error) {
	out := &runtimev1.ListContainersResponse{}
	for _, c := range r.containers {
		if c.PodSandboxId == q.GetFilter().GetPodSandboxId() {
			out.Containers = append(out.Containers, c)
		}
	}
	return out, nil
}

func (r *runtime) ContainerStatus(_ context.Context, q *runtimev1.ContainerStatusRequest) (*runtimev1.ContainerStatusResponse, error) {
	info, ok := r.info[q.GetContainerId()]
	if !ok {
		return nil, status.Errorf(codes.NotFound, "no container %q", q.GetContainerId())
	}
	if !q.GetVerbose() {
		info = nil
	}
	return &runtimev1.ContainerStatusResponse{Status: &runtimev1.ContainerStatus{Id: q.GetContainerId()}, Info: info}, nil
}

func (r *runtime) Version(context.Context, *runtimev1.VersionRequest) (*runtimev1.VersionResponse, error) {
	return &runtimev1.VersionResponse{Version: "0.1.0", RuntimeName: "containerd", RuntimeVersion: "v2.4.2", RuntimeApiVersion: "v1"}, nil
}

// serve returns a client of r, and a way to restart it.
func serve(t *testing.T, r *runtime) (c *cri.Client, restart func()) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cri.sock")
	var s *grpc.Server
	start := func() {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		s = grpc.NewServer()
		runtimev1.RegisterRuntimeServiceServer(s, r)
		go s.Serve(l) //nolint:errcheck // ends by Stop
	}
	start()
	c = cri.New("unix://" + path)
	t.Cleanup(func() { c.Close(); s.Stop() })
	return c, func() { s.Stop(); start() }
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestCalls(t *testing.T) {
	id := strings.Repeat("ab", 32)
	many := make([]*runtimev1.Container, 0, 2002)
	for range 2000 {
		many = append(many, &runtimev1.Container{Id: id, PodSandboxId: "big", Metadata: &runtimev1.ContainerMetadata{Name: "x"}, ImageRef: strings.Repeat("i", 200)})
	}
	c, restart := serve(t, &runtime{
		containers: append(many,
			&runtimev1.Container{
				Id: "one", PodSandboxId: "s", State: runtimev1.ContainerState_CONTAINER_RUNNING, CreatedAt: 1 << 60,
				Metadata: &runtimev1.ContainerMetadata{Name: "mesh-proxy", Attempt: 3}, Image: &runtimev1.ImageSpec{Image: "i"},
				Labels: map[string]string{"io.kubernetes.container.name": "mesh-proxy"}, Annotations: map[string]string{"a": "b"},
			},
			&runtimev1.Container{Id: "two", PodSandboxId: "s", State: runtimev1.ContainerState_CONTAINER_CREATED, Metadata: &runtimev1.ContainerMetadata{Name: "app"}},
			&runtimev1.Container{Id: "three", PodSandboxId: "s", State: runtimev1.ContainerState_CONTAINER_EXITED, Metadata: &runtimev1.ContainerMetadata{Name: "app"}},
			&runtimev1.Container{Id: "bare", PodSandboxId: "t", State: runtimev1.ContainerState_CONTAINER_UNKNOWN}),
		info: map[string]map[string]string{
			"one": {"other": "x", "info": `{"sandboxID":"s","pid":4711,"runtimeSpec":{"pid":1}}`}, "none": {}, "odd": {"info": "{"},
		},
	})
	want := []cri.Container{
		{ID: "one", Sandbox: "s", Name: "mesh-proxy", State: cri.Running},
		{ID: "two", Sandbox: "s", Name: "app", State: cri.Created},
		{ID: "three", Sandbox: "s", Name: "app", State: cri.Exited},
	}
	if got, err := c.Containers(within(t), "s"); err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := c.Containers(within(t), "t"); err != nil || !slices.Equal(got, []cri.Container{{ID: "bare", Sandbox: "t", State: cri.Unknown}}) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := c.Containers(within(t), "nobody"); err != nil || got != nil {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := c.Containers(within(t), "big"); err != nil || len(got) != 2000 {
		t.Errorf("%d, %v", len(got), err)
	}
	if pid, err := c.PID(within(t), "one"); pid != 4711 || err != nil {
		t.Errorf("%d, %v", pid, err)
	}
	for id, want := range map[string]string{"nobody": `no container "nobody"`, "none": "does not tell", "odd": "details"} {
		if pid, err := c.PID(within(t), id); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %d, %v, want %q", id, pid, err, want)
		}
	}
	restart()
	if name, v, err := c.Version(within(t)); name != "containerd" || v != "v2.4.2" || err != nil {
		t.Errorf("after a restart: %q %q, %v", name, v, err)
	}
}

func TestNobodyAnswers(t *testing.T) {
	c := cri.New(filepath.Join(t.TempDir(), "cri.sock"))
	if _, err := c.Containers(within(t), "s"); err == nil || !strings.Contains(err.Error(), "container runtime") {
		t.Error(err)
	}
}
