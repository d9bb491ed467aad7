package bypass_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/test/meshtest"
)

const (
	marker = "TUNMESH-BYPASS-MARKER"
	port   = 7777
)

// pod is one whose app may do all that root may do in the pod's user namespace.
func pod(name string, meshed bool) string {
	inject := "enabled"
	if !meshed {
		inject = "disabled"
	}
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata:
  name: %s
  namespace: default
  annotations: {tunmesh.io/inject: %s}
spec:
  containers:
    - name: app
      image: attacker
      command: ["sleep", "100000"]
      securityContext:
        runAsUser: 0
        capabilities: {add: ["ALL"]}
`, name, inject)
}

// quiet are ways that leave the attacker's pod as it was: they share one. The
// others break it, each its own.
func quiet() []string {
	return []string{
		"connect", "bindtodevice", "mark", "raw", "packet", "spoof-tcp", "spoof-udp", "spoof-icmp", "exthdr", "fragments", "options",
		"alpn", "setns", "mounts", "ptrace", "uid", "broker",
	}
}

func rough() []string { return []string{"linklocal", "tunnels", "tun", "routes", "links"} }

// outside is what lies beyond the sidecar: addresses, listeners, ears.
type outside struct {
	m            *meshtest.Mesh
	sink4, sink6 netip.Addr
	sniff        *sniffer
	sink         *sink
	peers        []string
	self         map[string][]netip.Addr // of the attackers' pods
}

func newOutside(t *testing.T) *outside {
	t.Helper()
	manifests := []string{meshtest.Server("server", 1), pod("evil", true), pod("plain", false)}
	for _, way := range rough() {
		manifests = append(manifests, pod("evil-"+way, true))
	}
	o := &outside{m: meshtest.Up(t, bin, "bypass", manifests...), self: map[string][]netip.Addr{}}
	for _, p := range o.m.Pods(t) {
		if len(p.IPs) != 2 {
			t.Fatalf("%s has the addresses %v, want one of each family", p.Name, p.IPs)
		}
		for _, ip := range p.IPs {
			o.self[p.Name] = append(o.self[p.Name], netip.MustParseAddr(ip))
			if strings.HasPrefix(p.Name, "server-") {
				o.peers = append(o.peers, net.JoinHostPort(ip, "7000"))
			}
		}
	}
	for _, a := range o.self["evil"] {
		b := a.AsSlice()
		b[len(b)-1] = 0xfa // .250: of the pods' range, and no pod's
		s, _ := netip.AddrFromSlice(b)
		// On the bridge, not on lo: there the node would leave neighbours' questions
		// for the IPv6 address unanswered, and no packet to it would ever be sent.
		args := []string{"ip", "addr", "add", s.String() + "/32", "dev", "br0"}
		if a.Is4() {
			o.sink4 = s
		} else {
			o.sink6 = s
			args = []string{"ip", "addr", "add", s.String() + "/128", "dev", "br0", "nodad"}
		}
		if out, err := o.m.InNode(t, args...).CombinedOutput(); err != nil {
			t.Fatalf("ip addr add: %v: %s", err, out)
		}
	}
	pid, err := o.m.HolderPID()
	if err != nil {
		t.Fatal(err)
	}
	o.sink = newSink(t, pid, []netip.Addr{o.sink4, o.sink6}, port)
	o.sniff = newSniffer(t, pid)
	return o
}

// args of the attacker for a way.
func (o *outside) args(way string) []string {
	return []string{way, "-sink4", o.sink4.String(), "-sink6", o.sink6.String(), "-port", fmt.Sprint(port), "-marker", marker,
		"-peers", strings.Join(o.peers, ",")}
}

// attack runs one way in a pod and returns what it said, what was seen outside
// and whom the sink heard.
func (o *outside) attack(t *testing.T, from, way string) (said string, seen []packet, heard []string) {
	t.Helper()
	o.sniff.take()
	o.sink.take()
	out, err := o.m.TryExec(time.Minute, from, append([]string{"attacker"}, o.args(way)...)...)
	said = string(out)
	if !strings.Contains(said, "TRIED") || !strings.HasSuffix(said, "DONE\n") {
		t.Fatalf("the attacker did not try or did not finish: %v: %s", err, said)
	}
	time.Sleep(200 * time.Millisecond) // what is on its way
	return said, o.sniff.take(), o.sink.take()
}

// alive shows that the pod's packets leave it and are seen, of both families:
// else the silence of the next attack would mean nothing.
func (o *outside) alive(t *testing.T, from string) {
	t.Helper()
	_, seen, _ := o.attack(t, from, "udp")
	for _, s := range []netip.Addr{o.sink4, o.sink6} {
		if !slices.ContainsFunc(seen, func(p packet) bool {
			return p.dst == s && p.proto == protoUDP && slices.Contains(o.self[from], p.src) && bytes.Contains(p.bytes, []byte(marker))
		}) {
			t.Errorf("UDP with the true source from %s to %v, which is allowed, was not seen outside", from, s)
		}
	}
}

func TestBypass(t *testing.T) {
	needRoot(t)
	o := newOutside(t)
	t.Run("the judge sees what an unmeshed pod does", func(t *testing.T) { o.testJudge(t) })
	for _, way := range quiet() {
		t.Run(way, func(t *testing.T) { o.testWay(t, "evil", way) })
	}
	t.Run("alpn from outside the mesh", func(t *testing.T) { o.testForgedALPN(t) })
	for _, way := range rough() {
		t.Run(way, func(t *testing.T) { o.testWay(t, "evil-"+way, way) })
	}
	t.Run("through kills of the sidecar", func(t *testing.T) { o.testKills(t) })
}

// testJudge is the negative case of all others: the same attacks from a pod
// without a sidecar are noticed, in each family.
func (o *outside) testJudge(t *testing.T) {
	const v4, v6 = 1, 2
	for way, families := range map[string]int{
		"connect": v4 | v6, "raw": v4 | v6, "packet": v4 | v6, "spoof-tcp": v4 | v6, "spoof-udp": v4 | v6, "spoof-icmp": v4 | v6,
		"tunnels": v4 | v6, "linklocal": v6, "exthdr": v6, "fragments": v4, "options": v4,
	} {
		said, seen, heard := o.attack(t, "plain", way)
		noticed, forged := 0, 0
		for _, b := range o.judge("plain", seen) {
			if slices.ContainsFunc(o.peers, func(p string) bool { return netip.MustParseAddrPort(p).Addr() == b.packet.dst }) {
				forged++
			}
			if b.packet.dst.Is4() {
				noticed |= v4
			} else {
				noticed |= v6
			}
		}
		if noticed&families != families {
			t.Errorf("%s from an unmeshed pod: noticed %b of families %b: this test could not fail", way, noticed, families)
		}
		if strings.HasPrefix(way, "spoof-") && forged == 0 {
			t.Errorf("%s from an unmeshed pod: no neighbour saw a forged source: this test could not fail", way)
		}
		if way == "connect" && (len(heard) != 2 || strings.Count(said, "GOT") != 2) {
			t.Errorf("connections from an unmeshed pod: the sink heard %v, the attacker said %s", heard, said)
		}
	}
}

func (o *outside) testWay(t *testing.T, from, way string) {
	o.alive(t, from)
	said, seen, heard := o.attack(t, from, way)
	for line := range strings.Lines(said) {
		if strings.HasPrefix(line, "GOT") {
			t.Error(strings.TrimSpace(line))
		}
	}
	for _, bad := range o.judge(from, seen) {
		t.Error(bad)
	}
	for _, who := range heard {
		t.Errorf("the sink accepted a connection from %s", who)
	}
	if testing.Verbose() || t.Failed() {
		t.Logf("%s", said)
	}
}

// testForgedALPN speaks to a meshed server from a pod that has no certificate:
// the server's sidecar must end it, for what it hands on comes back.
func (o *outside) testForgedALPN(t *testing.T) {
	said, _, _ := o.attack(t, "plain", "alpn")
	if strings.Contains(said, "ECHO") || strings.Contains(said, "GOT") || strings.Count(said, "TRIED") != 10 {
		t.Errorf("the mesh's ALPN without a certificate: %s", said)
	}
	t.Logf("%s", said)
	// The same way sees an answer where there is one: the app's own TLS of a
	// meshed pod is bytes, and travels.
	if said, _, _ = o.attack(t, "evil", "alpn"); strings.Count(said, "ECHO") != 10 {
		t.Errorf("the app's own TLS to a meshed peer does not travel as bytes: %s", said)
	}
}

func (o *outside) testKills(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := o.m.Command(ctx, append([]string{"local", "exec", "evil", "--", "attacker"}, o.args("squat")...)...)
	cmd.WaitDelay = 5 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	const kills = 5 // the last after a wait of 0.8 s; a thousand, without waits, in cni/broker
	before := o.m.Pod(t, "evil").Restarts
	for n := range kills {
		pid := o.m.Pod(t, "evil").PIDs["mesh-proxy"]
		if pid <= 1 {
			t.Fatal("no sidecar")
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		meshtest.Eventually(t, 30*time.Second, "the sidecar is back", func() bool {
			p := o.m.Pod(t, "evil")
			now := p.PIDs["mesh-proxy"]
			return p.Ready && now > 1 && now != pid && p.Restarts >= before+n+1
		})
	}
	cancel()
	_ = cmd.Wait()
	said := out.String()
	if strings.Contains(said, "GOT") || strings.Count(said, "refused the queues") < 100 {
		t.Errorf("the app asked while sidecars were killed: %.2000s", said)
	}
	t.Logf("%d kills; asked and refused %d times", kills, strings.Count(said, "refused the queues"))
	o.alive(t, "evil") // it was the sidecar that got the queues
}
