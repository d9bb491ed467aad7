package agent_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tunmesh/tunmesh/cni/agent"
	"github.com/tunmesh/tunmesh/cni/install"
	"github.com/tunmesh/tunmesh/cni/keeper"
	"github.com/tunmesh/tunmesh/internal/transcript"
)

const (
	conflist = `{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge"}]}`
	dsPath   = "/apis/apps/v1/namespaces/tunmesh-cni/daemonsets/mesh-cni"
	thereYet = `{"metadata":{"uid":"1","name":"mesh-cni"}}`
)

// api is an API server with one object.
type api struct {
	status atomic.Int64
	body   atomic.Pointer[string]
	asked  atomic.Int64
}

func (a *api) set(status int, body string) { a.body.Store(&body); a.status.Store(int64(status)) }

// serve returns how to reach it, as a pod knows that.
func (a *api) serve(t *testing.T) agent.API {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.asked.Add(1)
		if r.Method != http.MethodGet || r.URL.Path != dsPath || r.Header.Get("Authorization") != "Bearer secret" {
			http.Error(w, "not what the agent may do: "+r.Method+" "+r.URL.Path, http.StatusTeapot)
			return
		}
		w.WriteHeader(int(a.status.Load()))
		_, _ = io.WriteString(w, *a.body.Load())
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	t.Cleanup(s.Close)
	dir := t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "token"), []byte("secret\n"), 0o600), os.WriteFile(filepath.Join(dir, "ca.crt"), ca, 0o600)); err != nil {
		t.Fatal(err)
	}
	return agent.API{Server: s.URL, Dir: dir}
}

// clusterNode is an agent with a node's folders.
type clusterNode struct {
	t        *testing.T
	cfg      agent.Config
	net, bin string
	log      *transcript.Transcript
	admin    string
	end      context.CancelFunc
	ended    chan error
}

func newClusterNode(t *testing.T, where agent.API) *clusterNode {
	t.Helper()
	dir := t.TempDir()
	n := &clusterNode{t: t, net: filepath.Join(dir, "net.d"), bin: filepath.Join(dir, "bin")}
	n.cfg, n.log = config(filepath.Join(dir, "run")), new(transcript.Transcript)
	n.cfg.Log = slog.New(slog.NewTextHandler(n.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	program := filepath.Join(dir, "program")
	err := errors.Join(os.Mkdir(n.net, 0o755), os.Mkdir(n.bin, 0o755), os.WriteFile(program, []byte("the plugin"), 0o755),
		os.WriteFile(filepath.Join(n.net, "10-x.conflist"), []byte(conflist), 0o600), os.Mkdir(n.cfg.Dir, 0o700))
	if err != nil {
		t.Fatal(err)
	}
	n.cfg.Chain = &install.Config{
		NetDir: n.net, BinDir: n.bin, Program: program, Type: "mesh-cni", Entry: []byte(`{"type":"mesh-cni"}`),
		Known: []string{"1.0.0"}, StateDir: n.cfg.Dir, Log: n.cfg.Log,
	}
	n.cfg.DaemonSet, n.cfg.API = "tunmesh-cni/mesh-cni", where
	t.Cleanup(n.killKeeper)
	return n
}

func (n *clusterNode) killKeeper() { (&node{dir: n.cfg.Dir}).killKeeper() }

func (n *clusterNode) start() {
	n.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	n.admin = "http://" + l.Addr().String()
	n.cfg.Admin = l
	ctx, cancel := context.WithCancel(n.t.Context())
	n.end, n.ended = cancel, make(chan error, 1)
	go func() { n.ended <- agent.Run(ctx, n.cfg) }()
	n.t.Cleanup(cancel)
	eventually(n.t, "the plugin is in the chain", func() bool { return n.chain() == "bridge mesh-cni" })
}

func (n *clusterNode) stop() {
	n.t.Helper()
	n.end()
	if err := <-n.ended; err != nil {
		n.t.Error(err)
	}
}

func (n *clusterNode) chain() string {
	raw, err := os.ReadFile(filepath.Join(n.net, "10-x.conflist"))
	if err != nil {
		return err.Error()
	}
	if string(raw) == conflist {
		return "as it was"
	}
	if last, err := install.Chains(raw, "mesh-cni"); err != nil || !last {
		return fmt.Sprintf("%v: %s", err, raw)
	}
	return "bridge mesh-cni"
}

func (n *clusterNode) get(path string) (int, string) {
	n.t.Helper()
	resp, err := http.Get(n.admin + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	raw, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(raw)
}

func (n *clusterNode) keeperAnswers() bool {
	k, err := keeper.Dial(n.t.Context(), filepath.Join(n.cfg.Dir, "keeper.sock"))
	if err == nil {
		_ = k.Close()
	}
	return err == nil
}

// Why an agent is told to end, and what it does to the node.
func TestUpdatedOrRemoved(t *testing.T) {
	for name, c := range map[string]struct {
		status  int
		body    string
		pod     bool // a meshed one is on the node
		removed bool
	}{
		"updated":                       {200, thereYet, false, false},
		"updated, with pods":            {200, thereYet, true, false},
		"removed":                       {404, "", false, true},
		"removed, with pods":            {404, "", true, false},
		"being removed":                 {200, `{"metadata":{"uid":"1","deletionTimestamp":"2026-01-02T03:04:05Z"}}`, false, true},
		"removed with its role":         {403, "", false, true},
		"removed with its account":      {401, "", false, true},
		"nobody knows":                  {500, "", false, false},
		"an answer that makes no sense": {200, "<html>", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := &api{}
			a.set(200, thereYet)
			n := newClusterNode(t, a.serve(t))
			n.start()
			eventually(t, "it has seen its DaemonSet", func() bool { return strings.Contains(n.log.String(), agent.SawDaemonSet) })
			if c.pod {
				path := filepath.Join(n.cfg.Dir, install.Networks, "x.json")
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			a.set(c.status, c.body)
			n.stop()
			want := map[bool]string{true: "as it was", false: "bridge mesh-cni"}[c.removed]
			if got := n.chain(); got != want {
				t.Errorf("the chain is %s, want %s", got, want)
			}
			_, err := os.Stat(filepath.Join(n.bin, "mesh-cni"))
			if (err == nil) == c.removed {
				t.Errorf("the plugin: %v", err)
			}
			if n.keeperAnswers() == c.removed {
				t.Errorf("the keeper answers: %v", !c.removed)
			}
			left, _ := filepath.Glob(filepath.Join(n.cfg.Dir, "*"))
			left = slices.DeleteFunc(left, func(path string) bool { return filepath.Ext(path) == ".pid" }) // the test's own
			if (len(left) == 0) != c.removed {
				t.Errorf("in the state folder: %v", left)
			}
			j, err := install.ReadJournal(filepath.Join(n.net, install.JournalName))
			if withdrawn := err == nil && !j.Withdrawn.IsZero(); withdrawn != (c.pod && c.status == 404) {
				t.Errorf("withdrawn is %v (%v)", withdrawn, err)
			}
		})
	}
}

// An agent that never was allowed to look does not take a refusal for a removal.
func TestNeverAllowedToLook(t *testing.T) {
	a := &api{}
	a.set(403, "")
	n := newClusterNode(t, a.serve(t))
	n.start()
	eventually(t, "it has asked", func() bool { return a.asked.Load() > 0 })
	n.stop()
	if got := n.chain(); got != "bridge mesh-cni" {
		t.Errorf("the chain is %s", got)
	}
}

func TestProbes(t *testing.T) {
	a := &api{}
	a.set(200, thereYet)
	n := newClusterNode(t, a.serve(t))
	n.cfg.Control = "mesh-control.invalid:8086"
	n.start()
	if code, text := n.get("/live"); code != 200 || text != "ok\n" {
		t.Errorf("/live: %d %q", code, text)
	}
	code, text := n.get("/ready")
	for _, want := range []string{"trust anchors: read the trust anchors", "control plane: the control plane's address"} {
		if code != 503 || !strings.Contains(text, want) {
			t.Errorf("/ready: %d %q, want %q", code, text, want)
		}
	}
	if err := os.Remove(filepath.Join(n.net, "10-x.conflist")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "/ready says that no CNI is there", func() bool {
		_, text := n.get("/ready")
		return strings.Contains(text, "CNI chain: no CNI has written")
	})
	if code, _ := n.get("/else"); code != 404 {
		t.Errorf("/else: %d", code)
	}
	n.stop()

	n.cfg.Control = "10.0.0.1:8086"
	if err := errors.Join(os.WriteFile(n.cfg.TrustAnchorsFile, []byte("x"), 0o600), os.WriteFile(filepath.Join(n.net, "10-x.conflist"), []byte(conflist), 0o600)); err != nil {
		t.Fatal(err)
	}
	n.start()
	eventually(t, "/ready", func() bool { code, text := n.get("/ready"); return code == 200 && text == "ok\n" })
	n.stop()
}
