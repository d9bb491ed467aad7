package plugin_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/tunmesh/tunmesh/cni/plugin"
	"github.com/tunmesh/tunmesh/internal/annotation"
	"github.com/tunmesh/tunmesh/internal/nettest"
)

// ready is a pod behind bridge and portmap, and the call that would mesh it.
func ready(t *testing.T, annotations map[string]string) (*world, *nettest.Space, *call) {
	t.Helper()
	nettest.NeedRoot(t)
	t.Parallel()
	w := newWorld(t)
	p := nettest.New(t, "pod")
	c, end := w.before(w.conflist("bridge", "1.1.0", subnet4, subnet6), w.runtime(p, "pod", annotations))
	t.Cleanup(end)
	if !p.Settled("eth0", 20*time.Second) {
		t.Fatal("the pod's addresses do not settle")
	}
	return w, p, c
}

func (w *world) mustAdd(a plugin.Agent, c *call) []byte {
	w.t.Helper()
	p, out := ours(a, nil)
	if err := p.Add(w.t.Context(), c.skel(w.t)); err != nil {
		w.t.Fatal(err)
	}
	return out.Bytes()
}

func (w *world) mustDel(a plugin.Agent, c *call) {
	w.t.Helper()
	p, out := ours(a, nil)
	if err := p.Del(w.t.Context(), c.skel(w.t)); err != nil {
		w.t.Error(err)
	}
	if out.Len() != 0 {
		w.t.Errorf("DEL prints %s", out)
	}
	if left := w.leftovers(); len(left) != 0 {
		w.t.Errorf("left after DEL: %q", left)
	}
}

func TestPodsThatWereNotInjectedAreNotTouched(t *testing.T) {
	for name, annotations := range map[string]map[string]string{
		"no annotation of ours": {"kubernetes.io/config.source": "api"},
		"disabled":              {annotation.Inject: "disabled"},
		"empty":                 {},
	} {
		t.Run(name, func(t *testing.T) {
			w, p, c := ready(t, annotations)
			c.conf["runtimeConfig"] = map[string]any{plugin.AnnotationsCapability: annotations}
			before := p.Picture()
			a := newFakeAgent()
			a.failAttach = errors.New("asked for a pod outside of the mesh")
			got := w.mustAdd(a, c)
			if want, _ := json.Marshal(c.conf["prevResult"]); !sameJSON(t, got, want) {
				t.Errorf("printed %s, not prevResult %s", got, want)
			}
			pl, _ := ours(a, nil)
			if err := pl.Check(t.Context(), c.skel(t)); err != nil {
				t.Errorf("CHECK: %v", err)
			}
			w.mustDel(a, c)
			if d := nettest.Changes(before, p.Picture()); d != "" {
				t.Errorf("the pod's namespace is changed:\n%s", d)
			}
		})
	}
}

func sameJSON(t *testing.T, a, b []byte) bool {
	t.Helper()
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	p, _ := json.Marshal(x)
	q, _ := json.Marshal(y)
	return bytes.Equal(p, q)
}

func TestAddTellsTheAgentAndThePodsOptions(t *testing.T) {
	w, p, c := ready(t, injected(annotation.ProxyQueues, "2", annotation.AllowIPProtocols, "47, 50", "other", "x"))
	a := newFakeAgent()
	out := w.mustAdd(a, c)
	r := a.attached["pod"]
	if r.Pod.Namespace != "default" || r.Pod.Name != "web" || r.Pod.UID != "u1" || r.Queues != 2 || r.MTU != 1500 ||
		!slices.Equal(r.AllowProtocols, []uint8{47, 50}) || len(r.Addrs) != 2 || r.AppDevice != "eth0" || r.WireDevice != "wire0" ||
		r.AppNetns != p.Path || r.WireNetns == "" || r.Annotations[annotation.ProxyQueues] != "2" || r.Annotations["other"] != "" {
		t.Errorf("request: %+v", r)
	}
	// Unchanged but for the interface list.
	var got, prev map[string]any
	raw, _ := json.Marshal(c.conf["prevResult"])
	if err := errors.Join(json.Unmarshal(out, &got), json.Unmarshal(raw, &prev)); err != nil {
		t.Fatal(err)
	}
	was := prev["interfaces"].([]any)
	if now := got["interfaces"].([]any); len(now) != len(was)+1 {
		t.Errorf("interfaces: %v", now)
	}
	delete(got, "interfaces")
	delete(prev, "interfaces")
	x, _ := json.Marshal(got)
	if y, _ := json.Marshal(prev); !sameJSON(t, x, y) {
		t.Errorf("printed %s, prevResult was %s", x, y)
	}
	w.mustDel(a, c)
	if len(a.attached) != 0 {
		t.Error("the agent still has the pod")
	}
}

func TestAddRefuses(t *testing.T) {
	for want, c := range map[string]struct {
		code        uint
		annotations map[string]string
		spoil       func(c *call, p *nettest.Space)
	}{
		"there is no prevResult":     {types.ErrInvalidNetworkConfig, injected(), func(c *call, _ *nettest.Space) { delete(c.conf, "prevResult") }},
		"parse prevResult":           {types.ErrDecodingFailure, injected(), func(c *call, _ *nettest.Space) { c.conf["prevResult"] = "x" }},
		"no address for eth0":        {types.ErrInvalidNetworkConfig, injected(), func(c *call, _ *nettest.Space) { c.conf["prevResult"] = map[string]any{"cniVersion": "1.1.0"} }},
		"which it does not list":     {types.ErrInvalidNetworkConfig, injected(), func(c *call, _ *nettest.Space) { c.prev().Interfaces = nil }},
		"is not on eth0":             {plugin.CodeRefused, injected(), func(c *call, _ *nettest.Space) { ip := c.prev().IPs[0].Address.IP; ip[len(ip)-1]++ }},
		"was not injected":           {plugin.CodeRefused, map[string]string{annotation.Inject: "enabled"}, nil},
		"choose withoutAnnotations":  {types.ErrInvalidNetworkConfig, nil, nil},
		"configured to refuse":       {plugin.CodeRefused, nil, func(c *call, _ *nettest.Space) { c.conf["withoutAnnotations"] = "refuse" }},
		"withoutAnnotations is":      {types.ErrInvalidNetworkConfig, nil, func(c *call, _ *nettest.Space) { c.conf["withoutAnnotations"] = "maybe" }},
		"no absolute path":           {types.ErrInvalidNetworkConfig, injected(), func(c *call, _ *nettest.Space) { c.conf["stateDir"] = "run" }},
		"want a number from 1":       {plugin.CodeRefused, injected(annotation.ProxyQueues, "9"), nil},
		"which never passes":         {plugin.CodeRefused, injected(annotation.AllowIPProtocols, "47,6"), nil},
		"an IPv6 extension header":   {plugin.CodeRefused, injected(annotation.AllowIPProtocols, "44"), nil},
		"want IP protocol numbers":   {plugin.CodeRefused, injected(annotation.AllowIPProtocols, "gre"), nil},
		"is not KEY=VALUE":           {types.ErrInvalidEnvironmentVariables, injected(), func(c *call, _ *nettest.Space) { c.args.Args = "a" }},
		"network namespace":          {types.ErrInvalidNetNS, injected(), func(c *call, _ *nettest.Space) { c.args.Netns = "/nowhere" }},
		"a second interface":         {plugin.CodeRefused, injected(), func(_ *call, p *nettest.Space) { p.Bridge("net1") }},
		"parse the network config":   {types.ErrDecodingFailure, injected(), func(c *call, _ *nettest.Space) { c.conf["stateDir"] = 7 }},
		"has no address for wire0":   {types.ErrInvalidNetworkConfig, injected(), func(c *call, _ *nettest.Space) { c.args.IfName = "wire0" }},
		"uplink namespace /nonsense": {types.ErrInternal, injected(), func(c *call, _ *nettest.Space) { c.conf["netnsDir"] = "/proc/nonsense" }},
	} {
		t.Run(want, func(t *testing.T) {
			w, p, call := ready(t, c.annotations)
			if c.spoil != nil {
				c.spoil(call, p)
			}
			before := p.Picture()
			text := want
			if c.code == types.ErrInternal {
				text = "make the uplink namespace"
			}
			a := newFakeAgent()
			pl, out := ours(a, nil)
			wantError(t, pl.Add(t.Context(), call.skel(t)), c.code, text)
			if out.Len() != 0 || len(a.attached) != 0 {
				t.Errorf("printed %s, attached %v", out, a.attached)
			}
			if d := nettest.Changes(before, p.Picture()); d != "" {
				t.Errorf("the pod's namespace is changed:\n%s", d)
			}
			if left := w.leftovers(); len(left) != 0 {
				t.Errorf("left: %q", left)
			}
		})
	}
}

// addrs are the pod's, as the main plugin gave them.
func (c *call) addrs() (out []netip.Prefix) {
	for _, ip := range c.result.IPs {
		a, _ := netip.AddrFromSlice(ip.Address.IP)
		ones, _ := ip.Address.Mask.Size()
		out = append(out, netip.PrefixFrom(a.Unmap(), ones))
	}
	return out
}

func (c *call) prev() *types100.Result { return c.conf["prevResult"].(*types100.Result) }

func TestWithoutAnnotationsPass(t *testing.T) {
	w, p, c := ready(t, nil)
	c.conf["withoutAnnotations"] = plugin.WithoutAnnotationsPass
	before := p.Picture()
	w.mustAdd(newFakeAgent(), c)
	if d := nettest.Changes(before, p.Picture()); d != "" {
		t.Errorf("the pod's namespace is changed:\n%s", d)
	}
}

func TestAgentDown(t *testing.T) {
	w, p, c := ready(t, injected())
	before := p.Picture()
	a := newFakeAgent()
	a.failAttach, a.failRelease = errors.New("nobody listens"), errors.New("nobody listens")
	pl, _ := ours(a, nil)
	wantError(t, pl.Add(t.Context(), c.skel(t)), types.ErrTryAgainLater, "node agent does not serve the pod")
	if d := nettest.Changes(before, p.Picture()); d != "" {
		t.Errorf("the pod's namespace is changed:\n%s", d)
	}
	wantError(t, pl.Status(t.Context(), c.skel(t)), types.ErrPluginNotAvailable, "does not answer")
	// In a chain of somebody else's the node would not be ready for any pod.
	c.conf["journal"] = filepath.Join(w.dir, "tunmesh.journal")
	if err := pl.Status(t.Context(), c.skel(t)); err != nil {
		t.Errorf("STATUS in another CNI's chain: %v", err)
	}
	delete(c.conf, "journal")
	// And a pod is removed without it.
	a.failAttach = nil
	w.mustAdd(a, c)
	w.mustDel(a, c)
	a.failRelease = nil
	if err := pl.Status(t.Context(), c.skel(t)); err != nil {
		t.Errorf("STATUS: %v", err)
	}
}

func TestSecondAdd(t *testing.T) {
	w, p, c := ready(t, injected())
	a := newFakeAgent()
	w.mustAdd(a, c)
	before := p.Picture()
	pl, _ := ours(a, nil)
	wantError(t, pl.Add(t.Context(), c.skel(t)), plugin.CodeExists, "DEL comes before another ADD")
	if d := nettest.Changes(before, p.Picture()); d != "" {
		t.Errorf("the second ADD changed:\n%s", d)
	}
	if err := pl.Check(t.Context(), w.after(c)); err != nil {
		t.Errorf("CHECK after a second ADD: %v", err)
	}
	if len(a.attached) != 1 {
		t.Error("the second ADD took the queues away")
	}
	w.mustDel(a, c)
}

// after is the call with our own result as prevResult, as CHECK and DEL get it.
func (w *world) after(c *call) *skel.CmdArgs {
	w.t.Helper()
	d := *c
	d.conf = map[string]any{}
	for k, v := range c.conf {
		d.conf[k] = v
	}
	r := *c.prev()
	r.Interfaces = append(slices.Clip(r.Interfaces), &types100.Interface{Name: "wire0", Sandbox: filepath.Join(w.netnsDir(), "tunmesh-pod")})
	d.conf["prevResult"] = &r
	return d.skel(w.t)
}

func TestDel(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, w *world, c *call){
		"of nothing":   func(*testing.T, *world, *call) {},
		"twice":        func(_ *testing.T, w *world, c *call) { w.mustAdd(newFakeAgent(), c); w.mustDel(newFakeAgent(), c) },
		"after an ADD": func(_ *testing.T, w *world, c *call) { w.mustAdd(newFakeAgent(), c) },
		"without the rest": func(_ *testing.T, w *world, c *call) {
			w.mustAdd(newFakeAgent(), c)
			delete(c.conf, "prevResult")
			delete(c.conf, "runtimeConfig")
		},
		"of a removed state file": func(t *testing.T, w *world, c *call) {
			w.mustAdd(newFakeAgent(), c)
			if err := os.Remove(filepath.Join(w.stateDir(), "networks", "pod.json")); err != nil {
				t.Fatal(err)
			}
			pl, _ := ours(newFakeAgent(), nil)
			wantError(t, pl.Add(t.Context(), c.skel(t)), plugin.CodeExists, "no state file tells of")
		},
		"of a damaged state file": func(t *testing.T, w *world, c *call) {
			w.mustAdd(newFakeAgent(), c)
			w.damage([]byte(`{"version":1,`))
			pl, _ := ours(newFakeAgent(), nil)
			wantError(t, pl.Add(t.Context(), c.skel(t)), plugin.CodeExists, "is damaged")
			wantError(t, pl.Check(t.Context(), c.skel(t)), plugin.CodeChanged, "is damaged")
		},
		"of an unknown version": func(t *testing.T, w *world, c *call) {
			w.mustAdd(newFakeAgent(), c)
			w.damage([]byte(`{"version":99}`))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, p, c := ready(t, injected())
			mac := p.MAC("eth0")
			prepare(t, w, c)
			w.mustDel(newFakeAgent(), c)
			// The main plugin's DEL, which comes next, finds what it made.
			if !p.Has("eth0") || p.MAC("eth0") != mac {
				t.Fatal("eth0 is not back")
			}
			for i, ip := range c.addrs() {
				if !slices.ContainsFunc(p.Addrs("eth0"), func(x netip.Prefix) bool { return x == ip }) {
					t.Errorf("address %d, %s, is not back: %v", i, ip, p.Addrs("eth0"))
				}
			}
		})
	}
}

func (w *world) damage(content []byte) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.stateDir(), "networks", "pod.json"), content, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func TestDelWithoutNetns(t *testing.T) {
	for name, spoil := range map[string]func(w *world){
		"with its state":          func(*world) {},
		"with a damaged state":    func(w *world) { w.damage([]byte("x")) },
		"with a state of nothing": func(w *world) { w.damage(nil) },
	} {
		t.Run(name, func(t *testing.T) {
			w, _, c := ready(t, injected())
			w.mustAdd(newFakeAgent(), c)
			spoil(w)
			c.args.Netns = ""
			w.mustDel(newFakeAgent(), c)
			for _, line := range w.Picture() {
				if strings.HasPrefix(line, "link veth") {
					t.Errorf("left on the node: %s", line)
				}
			}
		})
	}
}

// A path that names another namespace by now, such as that of a process whose
// number was given again, must not receive the pod's interface.
func TestDelWithAnothersNetns(t *testing.T) {
	w, p, c := ready(t, injected())
	w.mustAdd(newFakeAgent(), c)
	other := nettest.New(t, "other")
	before := other.Picture()
	c.args.Netns = other.Path
	w.mustDel(newFakeAgent(), c)
	if d := nettest.Changes(before, other.Picture()); d != "" {
		t.Errorf("the other namespace is changed:\n%s", d)
	}
	if !p.Has("eth0") {
		t.Error("the pod's own TUN was looked for in the wrong namespace, and is gone")
	}
}

// Another network of the same container is none of ours.
func TestDelOfAnotherInterface(t *testing.T) {
	w, p, c := ready(t, injected())
	a := newFakeAgent()
	w.mustAdd(a, c)
	before := p.Picture()
	pl, _ := ours(a, nil)
	c.args.IfName = "net1"
	if err := pl.Del(t.Context(), c.skel(t)); err != nil {
		t.Error(err)
	}
	if d := nettest.Changes(before, p.Picture()); d != "" {
		t.Errorf("changed:\n%s", d)
	}
	c.args.IfName = "eth0"
	w.mustDel(a, c)
}

func TestCheck(t *testing.T) {
	w, p, c := ready(t, injected())
	pl, _ := ours(newFakeAgent(), nil)
	wantError(t, pl.Check(t.Context(), c.skel(t)), plugin.CodeChanged, "has no state file")
	w.mustAdd(newFakeAgent(), c)
	if err := pl.Check(t.Context(), w.after(c)); err != nil {
		t.Fatal(err)
	}
	wantError(t, pl.Check(t.Context(), c.skel(t)), plugin.CodeChanged, "does not list wire0")
	p.MTU("eth0", 1400)
	wantError(t, pl.Check(t.Context(), w.after(c)), plugin.CodeChanged, "its mtu is 1400")
	p.MTU("eth0", 1500)
	c.prev().IPs = c.prev().IPs[:1]
	wantError(t, pl.Check(t.Context(), w.after(c)), plugin.CodeChanged, "it was set up with")
	w.mustDel(newFakeAgent(), c)
}

func TestGC(t *testing.T) {
	nettest.NeedRoot(t)
	t.Parallel()
	w := newWorld(t)
	a := newFakeAgent()
	conf := w.conflist("bridge", "1.1.0", subnet4)
	calls := map[string]*call{}
	for _, id := range []string{"stays", "goes", "othernet", "stray"} {
		c, end := w.before(conf, w.runtime(nettest.New(t, id), id, injected()))
		t.Cleanup(end)
		if id == "othernet" {
			c.conf["name"] = "another"
		}
		w.mustAdd(a, c)
		calls[id] = c
	}
	if err := os.Remove(filepath.Join(w.stateDir(), "networks", "stray.json")); err != nil {
		t.Fatal(err)
	}
	// A namespace of the runtime's in the same folder, and a file nobody can read.
	if err := os.WriteFile(filepath.Join(w.netnsDir(), "cni-1234"), nil, 0o444); err != nil {
		t.Fatal(err)
	}
	garbage := filepath.Join(w.stateDir(), "networks", "garbage.json")
	if err := os.WriteFile(garbage, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	gc := call{conf: map[string]any{
		"cniVersion": "1.1.0", "name": "pods", "stateDir": w.stateDir(), "netnsDir": w.netnsDir(),
		"cni.dev/valid-attachments": []types.GCAttachment{{ContainerID: "stays", IfName: "eth0"}},
	}}
	pl, _ := ours(a, nil)
	for range 2 {
		if err := pl.GC(t.Context(), gc.skel(t)); err != nil {
			t.Fatal(err)
		}
	}
	var left []string
	for _, f := range w.leftovers() {
		left = append(left, filepath.Base(f))
	}
	slices.Sort(left)
	if want := []string{"cni-1234", "garbage.json", "othernet.json", "stays.json", "tunmesh-othernet", "tunmesh-stays"}; !slices.Equal(left, want) {
		t.Errorf("left %q, want %q", left, want)
	}
	if len(a.attached) != 2 {
		t.Errorf("the agent serves %d pods", len(a.attached))
	}
	if err := pl.Check(t.Context(), calls["stays"].skel(t)); err == nil || !strings.Contains(err.Error(), "does not list") {
		t.Errorf("CHECK of the one that stays: %v", err)
	}
	for _, id := range []string{"stays", "othernet"} {
		if err := pl.Del(t.Context(), calls[id].skel(t)); err != nil {
			t.Error(err)
		}
	}
}

// run calls the plugin as a program.
func (w *world) run(stdin string, env ...string) (string, error) {
	cmd := exec.CommandContext(w.t.Context(), filepath.Join(w.dir, "bin", plugin.Type))
	cmd.Env = append(os.Environ(), append([]string{"CNI_PATH=/none", "CNI_CONTAINERID=pod", "CNI_IFNAME=eth0"}, env...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.Output()
	return string(out), err
}

func TestProgram(t *testing.T) {
	nettest.NeedRoot(t)
	t.Parallel()
	w := newWorld(t)
	out, err := w.run("", "CNI_COMMAND=VERSION")
	if err != nil || !strings.Contains(out, `"supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]`) {
		t.Errorf("VERSION: %v %s", err, out)
	}
	state := `"stateDir":"` + w.stateDir() + `","netnsDir":"` + w.netnsDir() + `"`
	for _, c := range []struct {
		stdin, command string
		code           uint
		text           string
	}{
		{`{"cniVersion":"0.2.0","name":"n",` + state + `}`, "ADD", types.ErrIncompatibleCNIVersion, "incompatible CNI versions"},
		{`{"cniVersion":"9.9.9","name":"n",` + state + `}`, "ADD", types.ErrIncompatibleCNIVersion, "incompatible CNI versions"},
		{`{"cniVersion":"1.0.0","name":"n",` + state + `}`, "STATUS", types.ErrIncompatibleCNIVersion, "does not allow STATUS"},
		{`{"cniVersion":"1.0.0","name":"n",` + state + `}`, "ADD", types.ErrInvalidNetworkConfig, "no prevResult"},
		{`{"cniVersion":"1.1.0","name":"n",` + state + `}`, "STATUS", types.ErrPluginNotAvailable, "does not answer"},
		{`{"cniVersion":"1.1.0","name":"n",`, "ADD", types.ErrDecodingFailure, "error unmarshall"},
		{`{"cniVersion":"1.1.0",` + state + `}`, "ADD", types.ErrInvalidNetworkConfig, "missing network name"},
		{`{"cniVersion":"1.1.0","name":"n"}`, "JUMP", types.ErrInvalidEnvironmentVariables, "unknown CNI_COMMAND"},
	} {
		out, err := w.run(c.stdin, "CNI_COMMAND="+c.command, "CNI_NETNS="+w.Path)
		var e types.Error
		if err == nil || json.Unmarshal([]byte(out), &e) != nil || e.Code != c.code || !strings.Contains(e.Error(), c.text) {
			t.Errorf("%s %s: %v %s; want code %d with %q", c.command, c.stdin, err, out, c.code, c.text)
		}
	}
	if out, err := w.run(`{"cniVersion":"1.1.0","name":"n",`+state+`}`, "CNI_COMMAND=DEL"); err != nil || out != "" {
		t.Errorf("DEL of nothing: %v %s", err, out)
	}
	w.agent()
	if out, err := w.run(`{"cniVersion":"1.1.0","name":"n",`+state+`}`, "CNI_COMMAND=STATUS"); err != nil {
		t.Errorf("STATUS: %v %s", err, out)
	}
}
