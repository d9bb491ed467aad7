package local_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/test/meshtest"
)

// ask runs meshctl and returns what it says and its exit code.
func ask(t *testing.T, m *meshtest.Mesh, line string) (out, errOut string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := m.Command(ctx, strings.Fields(line)...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("meshctl %s: %v", line, err)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

func said[T any](t *testing.T, m *meshtest.Mesh, line string) (v T) {
	t.Helper()
	out, errOut, code := ask(t, m, line)
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != 0 {
		t.Fatalf("meshctl %s: %v, exit code %d: %s%s", line, err, code, out, errOut)
	}
	return v
}

// TestPacketsAndConnections: what only who has a TCP stack of his own can show: the
// packets of both sides, and each connection with its age.
func TestPacketsAndConnections(t *testing.T) {
	m := meshtest.Up(t, bin, "packets", meshtest.Server("server", 1), meshtest.Client("client", true, ""), meshtest.Client("plain", false, ""))
	t.Run("wrong arguments", func(t *testing.T) {
		for line, want := range map[string]struct {
			code int
			says string
		}{
			"tap po/plain --pcap -":      {1, "has no sidecar"},
			"tap po/nobody --pcap -":     {1, `there is no pod "nobody"`},
			"tap deploy/server --pcap -": {2, "name one pod"},
			"dg connections po/nobody":   {1, `there is no pod "nobody"`},
			"dg connections po/plain":    {1, "has no sidecar"},
			"dg connections po":          {2, "name one pod"},
		} {
			out, errOut, code := ask(t, m, line)
			if code != want.code || !strings.Contains(errOut, want.says) || out != "" {
				t.Errorf("meshctl %s: exit code %d, want %d and %q: %s%s", line, code, want.code, want.says, out, errOut)
			}
		}
	})
	t.Run("packets", func(t *testing.T) { testPackets(t, m) })
	t.Run("connections", func(t *testing.T) { testConnections(t, m) })
}

// testPackets: tshark finds gRPC on the decrypted side, and nothing of it on the
// wire.
func testPackets(t *testing.T, m *meshtest.Mesh) {
	if _, err := exec.LookPath("tshark"); err != nil {
		t.Skip("needs tshark: apt-get install tshark")
	}
	file := filepath.Join(t.TempDir(), "client.pcapng")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	capture := m.Command(ctx, "tap", "po/client", "--pcap", file)
	var says bytes.Buffer
	capture.Stderr = &says
	if err := capture.Start(); err != nil {
		t.Fatal(err)
	}
	meshtest.Eventually(t, 20*time.Second, "the capture's beginning", func() bool {
		info, err := os.Stat(file)
		return err == nil && info.Size() > 0
	})
	load := meshtest.JSON[spread](t, m, "client", "testapp", "grpc", "-n", "50", "--parallel", "1", "server:8081")
	m.Exec(t, "client", "testapp", "http", "http://server/")
	time.Sleep(2 * time.Second)
	if err := capture.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := capture.Wait(); err != nil || !strings.Contains(says.String(), "packets captured, 0 missing") {
		t.Errorf("%v: %s", err, says.String())
	}
	shark := func(filter string, fields ...string) []string {
		args := []string{"-r", file, "-Y", filter, "-T", "fields"}
		if !strings.HasSuffix(filter, "tls") {
			// tshark looks for HTTP/2 by itself at ports that it takes for HTTP's.
			args = append(args, "-d", "tcp.port==8081,http2")
		}
		for _, f := range fields {
			args = append(args, "-e", f)
		}
		out, err := exec.CommandContext(ctx, "tshark", args...).Output()
		if err != nil {
			t.Fatalf("tshark %s: %v", filter, err)
		}
		return strings.Split(strings.TrimSpace(string(out)), "\n")
	}
	paths := shark(`frame.interface_name == "app" && http2.headers.path`, "http2.headers.path")
	if len(strings.Join(paths, "")) == 0 || strings.Count(strings.Join(paths, ","), "/") < load.calls() {
		t.Errorf("%d calls, and these paths are dissected: %q", load.calls(), paths)
	}
	if got := shark(`frame.interface_name == "app" && grpc`, "frame.number"); len(got) < load.calls() {
		t.Errorf("gRPC in %d packets", len(got))
	}
	if got := shark(`frame.interface_name == "wire" && tcp.port != 4191 && (http2 || grpc || http)`, "frame.number"); got[0] != "" {
		t.Errorf("in clear on the wire: packets %v", got)
	}
	if got := shark(`frame.interface_name == "wire" && tls`, "frame.number"); got[0] == "" {
		t.Error("no TLS on the wire")
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v: what was decrypted is for its owner alone", info.Mode(), err)
	}
}

// testConnections: what a sidecar has open is listed from both ends, each with its
// age.
func testConnections(t *testing.T, m *meshtest.Mesh) {
	type list struct {
		Total       int `json:"total"`
		Connections []struct {
			Direction string  `json:"direction"`
			Peer      string  `json:"peer"`
			Age       float64 `json:"age_seconds"`
			RTT       float64 `json:"rtt_ms"`
			In        uint64  `json:"bytes_in"`
		} `json:"connections"`
	}
	began := time.Now()
	meshtest.JSON[spread](t, m, "client", "testapp", "grpc", "-n", "20", "--parallel", "1", "server:8081")
	got := said[list](t, m, "dg connections po/client -o json")
	oldest := 0.0
	for _, c := range got.Connections {
		if c.Direction == "outbound" && strings.HasPrefix(c.Peer, "default/server-") && c.In > 0 && c.RTT > 0 {
			oldest = max(oldest, c.Age)
		}
	}
	if oldest < time.Since(began).Seconds() {
		t.Errorf("no connection to the server is as old as the traffic before: %+v", got)
	}
	out, errOut, code := ask(t, m, "dg connections "+serverPod(t, m))
	if code != 0 || !regexp.MustCompile(`inbound +http/2 +default/client .*√ +\d`).MatchString(out) {
		t.Errorf("from the server's end: exit code %d: %s%s", code, out, errOut)
	}
}

// serverPod is the one pod of the server, as commands name it.
func serverPod(t *testing.T, m *meshtest.Mesh) string {
	t.Helper()
	for _, row := range said[[]struct {
		Name string `json:"name"`
	}](t, m, "stat po -o json") {
		if strings.HasPrefix(row.Name, "server-") {
			return "po/" + row.Name
		}
	}
	t.Fatal("the server has no pod")
	return ""
}
