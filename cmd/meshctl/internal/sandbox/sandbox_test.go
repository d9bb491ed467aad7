package sandbox_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/node"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/sandbox"
)

const insideEnv = "TUNMESH_TEST_INSIDE"

// TestMain runs the tests in a node of their own, so that nothing they mount or
// set touches the machine, and all of it ends when this process is killed.
func TestMain(m *testing.M) {
	sandbox.Main(os.Args)
	switch {
	case os.Getuid() != 0:
		os.Exit(m.Run()) // they skip
	case os.Getenv(insideEnv) == "":
		c := node.Command(context.Background(), os.Args[1:]...)
		c.Env = append(os.Environ(), insideEnv+"=1")
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		runtime.LockOSThread() // whose end is the node's
		c.SysProcAttr.Pdeathsig = syscall.SIGKILL
		if err := c.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "run the tests in a node:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if err := node.Furnish(node.Config{Hostname: "test-node"}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes user, mount and network namespaces")
	}
}

type env struct {
	t    *testing.T
	ctx  context.Context
	base *sandbox.Base
	n    atomic.Uint32
}

func newEnv(t *testing.T) *env {
	t.Helper()
	needRoot(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	dir, err := os.MkdirTemp("/run/tunmesh", "base")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	base, err := sandbox.NewBase(ctx, sandbox.BaseConfig{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return &env{t: t, ctx: ctx, base: base}
}

func (e *env) pod(points ...sandbox.Point) *sandbox.Pod {
	e.t.Helper()
	n := e.n.Add(1)
	p, err := e.base.Start(e.ctx, sandbox.Spec{ID: fmt.Sprintf("pod-%d", n), Hostname: "web-0", IDBase: 1879048192 + n*sandbox.IDs, Points: points})
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(p.Close)
	if err := p.SetEtc(e.ctx, "127.0.0.1 localhost\n", "nameserver 10.244.0.1\n", "web-0\n"); err != nil {
		e.t.Fatal(err)
	}
	return p
}

func path() []string { return []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"} }

func root() sandbox.Identity { return sandbox.Identity{Caps: sandbox.AllCaps, Filter: true} }

// run starts a container and returns what it printed and how it ended.
func (e *env) run(p *sandbox.Pod, c sandbox.Container) (string, sandbox.Exit) {
	e.t.Helper()
	proc, out := e.begin(p, c)
	raw, err := io.ReadAll(out)
	if err != nil {
		e.t.Fatal(err)
	}
	select {
	case <-proc.Done():
	case <-e.ctx.Done():
		e.t.Fatal("the container did not end")
	}
	return string(raw), proc.Exit()
}

func (e *env) begin(p *sandbox.Pod, c sandbox.Container) (*sandbox.Process, *os.File) {
	e.t.Helper()
	if c.Env == nil {
		c.Env = path()
	}
	r, w, err := os.Pipe()
	if err != nil {
		e.t.Fatal(err)
	}
	defer w.Close()
	e.t.Cleanup(func() { r.Close() })
	proc, err := p.Start(e.ctx, c, w, w)
	if err != nil {
		e.t.Fatal(err)
	}
	proc.PIDNS.Close()
	if err := proc.Release(e.ctx); err != nil {
		e.t.Fatal(err)
	}
	return proc, r
}

func sh(script string) []string { return []string{"sh", "-c", script} }

func TestContainerRuns(t *testing.T) {
	e := newEnv(t)
	p := e.pod()
	out, exit := e.run(p, sandbox.Container{Name: "c", Argv: sh("echo $$; id -u; hostname; cat /etc/resolv.conf; cat /etc/hosts; exit 7"), Identity: root()})
	want := "1\n0\nweb-0\nnameserver 10.244.0.1\n127.0.0.1 localhost\n"
	if out != want || exit.Code != 7 {
		t.Errorf("got %q and %+v, want %q and code 7", out, exit, want)
	}
}

// What root with every capability of the pod cannot do or see.
func TestIsolation(t *testing.T) {
	e := newEnv(t)
	if err := os.MkdirAll("/run/tunmesh/secret", 0o777); err != nil {
		t.Fatal(err)
	}
	p := e.pod()
	other, _ := e.begin(p, sandbox.Container{Name: "other", Argv: sh("exec sleep 1000"), Identity: root()})
	defer func() { _ = other.Signal(context.WithoutCancel(e.ctx), syscall.SIGKILL) }()
	for _, c := range []struct{ name, script, want string }{
		{"root is read-only", "touch /etc/x /usr/x /x 2>/dev/null; ls /etc/x /usr/x /x 2>/dev/null | wc -l", "0\n"},
		{"remount writable", "mount -o remount,rw,bind / 2>/dev/null; mount -o remount,rw,bind /usr 2>/dev/null; touch /x /usr/x 2>/dev/null; ls /x /usr/x 2>/dev/null | wc -l", "0\n"},
		{"own processes only", "set -- /proc/[0-9]*; echo $#", "1\n"},
		{"no process below its own proc", "umount -l /proc/* 2>/dev/null; umount -l /proc && ls -d /proc/[0-9]* 2>/dev/null | wc -l", "0\n"},
		{"own network only", "ls /sys/class/net", "lo\n"},
		{"nothing below its own sys", "umount -l /sys && ls /sys/class/net", ""},
		{"no run of the machine", "ls -A /run; umount -l /run; ls -A /run", ""},
		{"no tmp of the machine", "ls -A /tmp; umount -l /tmp; ls -A /tmp", ""},
		{"no tun", "ls /dev/net 2>/dev/null; mknod /tmp/tun c 10 200 2>/dev/null; ls /tmp", ""},
		{"devices", "ls /dev", "fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n"},
		{"volumes are gone", "ls -A /tunmesh/volumes; umount /tunmesh/volumes 2>/dev/null; ls -A /tunmesh/volumes", ""},
		{"init is not to be replaced", "echo x 2>/dev/null >/tunmesh/init; umount /tunmesh/init 2>/dev/null; test -s /tunmesh/init && echo there", "there\n"},
		{"a new proc shows nothing more", "mkdir /tmp/p && mount -t proc proc /tmp/p && set -- /tmp/p/[0-9]* && echo $#", "1\n"},
		{"capabilities do not reach the machine", "hostname other && sysctl -qw kernel.panic=5 2>/dev/null || echo refused", "refused\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, _ := e.run(p, sandbox.Container{Name: "c", Argv: sh(c.script), Identity: root()})
			if out != c.want {
				t.Errorf("got %q, want %q", out, c.want)
			}
		})
	}
}

func TestIdentity(t *testing.T) {
	e := newEnv(t)
	p := e.pod()
	status := func(id sandbox.Identity) string {
		out, _ := e.run(p, sandbox.Container{Name: "c", Argv: sh("grep -E '^(Uid|Gid|Groups|CapEff|CapPrm|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status | tr -s '\\t ' ' '"), Identity: id})
		return out
	}
	got := status(sandbox.Identity{UID: 2102, GID: 2102, Groups: []uint32{7}, NoNewPrivs: true, Filter: true})
	for _, want := range []string{"Uid: 2102 2102 2102 2102", "Gid: 2102 2102 2102 2102", "Groups: 7", "CapEff: 0000000000000000", "CapPrm: 0000000000000000", "CapBnd: 0000000000000000", "CapAmb: 0000000000000000", "NoNewPrivs: 1", "Seccomp: 2"} {
		if !strings.Contains(got, want) {
			t.Errorf("restricted: no %q in\n%s", want, got)
		}
	}
	got = status(sandbox.Identity{Caps: sandbox.DefaultCaps})
	for _, want := range []string{"CapEff: 00000000a80425fb", "CapBnd: 00000000a80425fb", "NoNewPrivs: 0", "Seccomp: 0"} {
		if !strings.Contains(got, want) {
			t.Errorf("default: no %q in\n%s", want, got)
		}
	}
}

func TestVolumes(t *testing.T) {
	e := newEnv(t)
	p := e.pod(sandbox.Point{Path: "/data/deep"}, sandbox.Point{Path: "/etc/app"}, sandbox.Point{Path: "/etc/app.conf", File: true}, sandbox.Point{Path: "/var/run/secrets/x"})
	set := func(v sandbox.Volume) {
		t.Helper()
		if err := p.SetVolume(e.ctx, v); err != nil {
			t.Fatal(err)
		}
	}
	set(sandbox.Volume{Name: "empty", Mode: 0o777})
	set(sandbox.Volume{Name: "conf", Mode: 0o755, Files: []sandbox.File{{Path: "a/b", Mode: 0o644, Data: []byte("one")}, {Path: "c", Mode: 0o400, Data: []byte("two")}}})
	set(sandbox.Volume{Name: "token", Mode: 0o755, UID: 2102, GID: 2102, Files: []sandbox.File{{Path: "token", Mode: 0o400, Data: []byte("secret")}}})
	mounts := []sandbox.Mount{
		{Volume: "empty", Path: "/data/deep"},
		{Volume: "conf", Path: "/etc/app", ReadOnly: true},
		{Volume: "conf", SubPath: "c", Path: "/etc/app.conf", File: true, ReadOnly: true},
	}
	out, _ := e.run(p, sandbox.Container{Name: "a", Identity: root(), Mounts: mounts, Argv: sh(
		"echo x >/data/deep/x; ln -s /tunmesh/volumes/token /data/deep/trap; cat /etc/app/a/b /etc/app.conf; echo y 2>/dev/null >/etc/app/c; test -e /etc/passwd && ls /etc/app; find / -name token -path '*tunmesh*' 2>/dev/null")})
	if want := "onetwoa\nc\n"; out != want {
		t.Errorf("first container: got %q, want %q", out, want)
	}
	out, _ = e.run(p, sandbox.Container{Name: "b", Identity: sandbox.Identity{UID: 2102, GID: 2102}, Mounts: []sandbox.Mount{
		{Volume: "empty", Path: "/data/deep"}, {Volume: "token", Path: "/var/run/secrets/x", ReadOnly: true}},
		Argv: sh("cat /data/deep/x /var/run/secrets/x/token")})
	if want := "x\nsecret"; out != want {
		t.Errorf("second container: got %q, want %q", out, want)
	}
	// A link in a volume leads nowhere else.
	if _, err := p.Start(e.ctx, sandbox.Container{Name: "c", Env: path(), Identity: root(), Argv: sh("true"), Mounts: []sandbox.Mount{{Volume: "empty", SubPath: "trap", Path: "/data/deep"}}}, os.Stderr, os.Stderr); err == nil {
		t.Error("a subPath through a link out of the volume was mounted")
	}
	// Files change whole, and those that are no more go.
	set(sandbox.Volume{Name: "conf", Files: []sandbox.File{{Path: "c", Mode: 0o444, Data: []byte("new")}}})
	out, _ = e.run(p, sandbox.Container{Name: "d", Identity: root(), Mounts: mounts[1:2], Argv: sh("cd /etc/app; ls; cat c")})
	if want := "c\nnew"; out != want {
		t.Errorf("after the change: got %q, want %q", out, want)
	}
}

func TestReadOnly(t *testing.T) {
	e := newEnv(t)
	p := e.pod(sandbox.Point{Path: "/tmp/cache"})
	if err := p.SetVolume(e.ctx, sandbox.Volume{Name: "cache", Mode: 0o777}); err != nil {
		t.Fatal(err)
	}
	script := "touch /tmp/x /run/x /var/tmp/x 2>/dev/null; touch /tmp/cache/x && ls /tmp /run /var/tmp 2>/dev/null | grep -c x"
	for _, c := range []struct {
		ro   bool
		want string
	}{{true, "0\n"}, {false, "3\n"}} {
		out, _ := e.run(p, sandbox.Container{Name: "c", Identity: sandbox.Identity{}, ReadOnly: c.ro, Argv: sh(script),
			Mounts: []sandbox.Mount{{Volume: "cache", Path: "/tmp/cache"}}})
		if out != c.want {
			t.Errorf("read-only %v: %q files were made, want %q", c.ro, out, c.want)
		}
	}
}

func TestExec(t *testing.T) {
	e := newEnv(t)
	p := e.pod()
	c, _ := e.begin(p, sandbox.Container{Name: "c", Argv: sh("touch /tmp/mark; exec sleep 1000"), Identity: root()})
	in, _ := os.Open(os.DevNull)
	defer in.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	proc, err := p.Exec(e.ctx, c, sandbox.Exec{Argv: sh("ls /tmp; id -u; grep CapEff /proc/self/status | cut -f2; ls -d /proc/[0-9]* | head -1; exit 3"), Env: path(), Identity: sandbox.Identity{UID: 5, GID: 5, NoNewPrivs: true}}, in, w, w)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := io.ReadAll(r)
	<-proc.Done()
	if want := "mark\n5\n0000000000000000\n/proc/1\n"; string(raw) != want || proc.Exit().Code != 3 {
		t.Errorf("got %q and %+v, want %q and code 3", raw, proc.Exit(), want)
	}

	tty, err := p.Exec(e.ctx, c, sandbox.Exec{Argv: sh("tty; exit 4"), Env: path(), Identity: root(), TTY: true}, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Terminal.Close()
	raw, _ = io.ReadAll(tty.Terminal) // ends with EIO when the last of it is gone
	<-tty.Done()
	if !strings.HasPrefix(string(raw), "/dev/pts/") || tty.Exit().Code != 4 {
		t.Errorf("terminal: got %q and %+v", raw, tty.Exit())
	}
	if _, err := p.Exec(e.ctx, c, sandbox.Exec{Argv: []string{"no-such-program"}, Env: path(), Identity: root()}, in, in, in); err == nil {
		t.Error("a program that does not exist was started")
	}
}

// The end of the supervisor is the end of all that ran in the pod.
func TestKill(t *testing.T) {
	e := newEnv(t)
	p := e.pod()
	c, out := e.begin(p, sandbox.Container{Name: "c", Argv: sh("sleep 1000 & sleep 1000 & exec sleep 1000"), Identity: root()})
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.Done():
	case <-e.ctx.Done():
		t.Fatal("the container outlived its pod")
	}
	if _, err := io.ReadAll(out); err != nil { // its end means nobody holds the pipe
		t.Fatal(err)
	}
	if got, _ := exec.Command("pgrep", "-x", "sleep").Output(); len(got) > 0 {
		t.Errorf("processes left: %s", got)
	}
	if err := p.SetVolume(e.ctx, sandbox.Volume{Name: "x"}); err == nil {
		t.Error("a call to a pod that is gone succeeded")
	}
}

func TestSealed(t *testing.T) {
	needRoot(t)
	e := newEnv(t)
	dir, err := os.MkdirTemp("/run/tunmesh", "bin") // gone with the node
	if err != nil {
		t.Fatal(err)
	}
	// The folder is for root alone, as a clone in root's home is.
	for _, name := range []string{"open", "sealed", "private"} {
		raw, err := os.ReadFile("/bin/sleep")
		if err != nil {
			t.Fatal(err)
		}
		mode := os.FileMode(0o755)
		if name == "private" { // as a build with umask 077 makes them
			mode = 0o700
		}
		if err := os.WriteFile(dir+"/"+name, raw, mode); err != nil {
			t.Fatal(err)
		}
	}
	bdir, _ := os.MkdirTemp("/run/tunmesh", "base")
	_ = os.Chmod(bdir, 0o755)
	base, err := sandbox.NewBase(e.ctx, sandbox.BaseConfig{Dir: bdir, Bins: dir, Sealed: []string{"sealed"}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	e.base = base
	p := e.pod()
	// As the container's own root with every capability, in the same PID namespace.
	out, _ := e.run(p, sandbox.Container{Name: "c", Identity: root(), Argv: sh(
		`for p in open sealed; do /tunmesh/bin/$p 1000 & sleep 0.2; readlink /proc/$!/exe >/dev/null && echo $p traceable; ls /proc/$!/fd >/dev/null 2>&1 && echo $p descriptors; kill $!; done; cat /tunmesh/bin/sealed >/dev/null 2>&1 || echo unreadable; private 0 && echo private runs`),
		Env: []string{"PATH=/usr/bin:/bin:" + sandbox.BinDir}})
	if want := "open traceable\nopen descriptors\nunreadable\nprivate runs\n"; out != want {
		t.Errorf("got %q, want %q", out, want)
	}
}
