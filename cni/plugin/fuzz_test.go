package plugin

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/tunmesh/tunmesh/cni/podnet"
)

// FuzzConf: whatever a runtime sends, the answer is a value or a CNI error, and
// a result is printed back whole.
func FuzzConf(f *testing.F) {
	for _, s := range []string{
		`{"cniVersion":"1.1.0","name":"pods","type":"mesh-cni","runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"tunmesh.io/injected":"v1","config.tunmesh.io/proxy-queues":"2"}},"prevResult":{"cniVersion":"1.1.0","interfaces":[{"name":"br0"},{"name":"eth0","sandbox":"/p"}],"ips":[{"interface":1,"address":"10.0.0.2/24","gateway":"10.0.0.1"},{"address":"fd00::2/64"}],"routes":[{"dst":"0.0.0.0/0"}],"dns":{}}}`,
		`{"cniVersion":"0.4.0","name":"pods","prevResult":{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.0.0.2/24"}]}}`,
		`{"cniVersion":"1.1.0","prevResult":{"interfaces":[null],"ips":[null,{"interface":-1,"address":"10.0.0.2/24"}]}}`,
		`{"cniVersion":"1.1.0","prevResult":null,"withoutAnnotations":"pass"}`,
		`{"runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"tunmesh.io/inject":"enabled"}},"stateDir":"x"}`,
		`{"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]}`, `[]`, ``, `{`,
	} {
		f.Add([]byte(s), "eth0")
	}
	f.Fuzz(func(t *testing.T, stdin []byte, ifName string) {
		c, err := parseConf(stdin)
		if err != nil {
			wantCNI(t, err)
			return
		}
		if _, err := c.meshed(); err != nil {
			wantCNI(t, err)
		}
		if o, err := parseOptions(c.RuntimeConfig.Annotations); err != nil {
			wantCNI(t, err)
		} else if o.queues < 1 || o.queues > 2 {
			t.Fatalf("%d queues", o.queues)
		}
		_ = c.lostAddrs()
		r, err := c.result()
		if err != nil {
			wantCNI(t, err)
			return
		}
		addrs, err := podAddrs(r, ifName)
		if err == nil && len(addrs) == 0 {
			t.Fatal("no address and no error")
		}
		out, err := c.extended("wire0", "/u")
		if err != nil {
			wantCNI(t, err)
			return
		}
		if !json.Valid(out) || !strings.Contains(string(out), `"wire0"`) {
			t.Fatalf("printed %s", out)
		}
	})
}

func wantCNI(t *testing.T, err error) {
	t.Helper()
	var e *types.Error
	if !errors.As(err, &e) || e.Code == 0 || e.Msg == "" {
		t.Fatalf("%v is no CNI error", err)
	}
}

// FuzzState: what is read from a state file is either refused or is a network
// that can be taken down.
func FuzzState(f *testing.F) {
	raw, err := json.Marshal(sampleState())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"version":1,"containerID":"a","ifName":"eth0","made":{"link":{"name":"eth0"}}}`))
	f.Add([]byte(`{"version":1,"made":{"addrs":["::"],"link":{"addrs":[{"prefix":"10.0.0.0/33"}]}}}`))
	f.Add([]byte("null"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		st, err := decodeState(raw)
		if err != nil {
			return
		}
		if err := st.Made.Validate(); err != nil || st.IfName != st.Made.Link.Name {
			t.Fatalf("accepted %s: %v", raw, err)
		}
		again, err := json.Marshal(st)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeState(again); err != nil {
			t.Fatalf("what was accepted is not when written again: %v", err)
		}
	})
}

// FuzzPod: CNI_ARGS and the annotations that carry lists.
func FuzzPod(f *testing.F) {
	f.Add("K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=u", "47,50", "2")
	f.Add(";;=;a=b=c", " ,255, 0x1", "-1")
	f.Add("", "6", "")
	f.Fuzz(func(t *testing.T, args, protocols, queues string) {
		if _, err := parsePod(args); err != nil {
			wantCNI(t, err)
		}
		got, err := parseProtocols(protocols)
		for _, p := range got {
			if err == nil && (p == 0 || p == 6) {
				t.Fatalf("%q lets protocol %d pass", protocols, p)
			}
		}
		if n, err := parseQueues(queues); err == nil && (n < 1 || n > 2) {
			t.Fatalf("%d queues", n)
		}
	})
}

func sampleState() *state {
	a, p := netip.MustParseAddr("10.0.0.2"), netip.MustParsePrefix("10.0.0.2/24")
	return &state{
		Version: stateVersion, ContainerID: "c1", IfName: "eth0", Network: "pods",
		Made: podnet.Network{
			Netns: "/p", Uplink: "/u", NetnsID: podnet.ID{Dev: 1, Ino: 2}, Addrs: []netip.Addr{a},
			Link: podnet.Link{
				Name: "eth0", MAC: "02:00:00:00:00:01", MTU: 1500, Up: true, Addrs: []podnet.Addr{{Prefix: p}},
				Routes:  []podnet.Route{{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.0.0.1"), Table: 254}},
				Sysctls: map[string]string{"net/ipv4/conf/eth0/rp_filter": "1"},
			},
		},
	}
}

func TestStore(t *testing.T) {
	s := newStore(t.TempDir())
	if _, err := s.load("c1"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("load of nothing: %v", err)
	}
	st := sampleState()
	if err := s.create(st); err != nil {
		t.Fatal(err)
	}
	if err := s.create(st); !errors.Is(err, fs.ErrExist) {
		t.Errorf("created twice: %v", err)
	}
	got, err := s.load("c1")
	if err != nil {
		t.Fatal(err)
	}
	x, _ := json.Marshal(got)
	if y, _ := json.Marshal(st); string(x) != string(y) {
		t.Errorf("read %s, wrote %s", x, y)
	}
	files, err := os.ReadDir(s.dir)
	if err != nil || len(files) != 1 {
		t.Errorf("%d files, %v: a temporary one is left", len(files), err)
	}
	// A file that was copied by hand is another container's.
	raw, err := os.ReadFile(s.path("c1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path("c2"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	var garbage *garbageError
	if _, err := s.load("c2"); !errors.As(err, &garbage) {
		t.Errorf("another container's file: %v", err)
	}
	if ids, err := s.ids(); err != nil || len(ids) != 2 {
		t.Errorf("ids: %q, %v", ids, err)
	}
	for range 2 {
		if err := s.remove("c1"); err != nil {
			t.Error(err)
		}
	}
}

// A folder that cannot be written makes no state.
func TestStoreFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := newStore(file).create(sampleState()); err == nil {
		t.Error("created below a file")
	}
}

func TestConflist(t *testing.T) {
	for file, c := range map[string]Conflist{
		"bridge.conflist": {Name: "pods", Bridge: "tm-br0", Subnets: prefixes("10.244.0.0/24"), IPMasq: true},
		"bridge-dual.conflist": {
			Name: "pods", Bridge: "tm-br0", Subnets: prefixes("10.244.0.0/24", "fd00:244::/64"), CNIVersion: "1.0.0", MTU: 1450,
			IPAMDir: "/run/tunmesh/ipam", StateDir: "/run/tunmesh/local", NetnsDir: "/run/tunmesh/netns",
			AgentSocket: "/run/tunmesh/local/agent.sock", WithoutAnnotations: WithoutAnnotationsRefuse,
		},
		"ptp.conflist": {Name: "pods", Main: "ptp", Subnets: prefixes("10.244.0.0/24"), CNIVersion: "0.4.0"},
	} {
		got, err := c.JSON()
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", file)
		if os.Getenv("UPDATE") != "" {
			if err := os.WriteFile(path, append(got, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if string(want) != string(got)+"\n" {
			t.Errorf("%s is not what is rendered (UPDATE=1 writes it):\n%s", path, got)
		}
	}
	for want, c := range map[string]Conflist{
		"a name and a subnet":   {Name: "pods"},
		"a name for the bridge": {Name: "pods", Subnets: prefixes("10.0.0.0/8")},
		"want bridge or ptp":    {Name: "pods", Main: "macvlan", Subnets: prefixes("10.0.0.0/8")},
		"is not valid":          {Name: "pods", Main: "ptp", Subnets: make([]netip.Prefix, 1)},
	} {
		if _, err := c.JSON(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func prefixes(all ...string) (out []netip.Prefix) {
	for _, p := range all {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}
