package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// shells are those of this machine that a script may be piped into.
func shells(t *testing.T) (list [][]string) {
	t.Helper()
	for _, s := range [][]string{{"sh"}, {"dash"}, {"bash", "--posix"}, {"busybox", "sh"}} {
		if _, err := exec.LookPath(s[0]); err == nil {
			list = append(list, s)
		}
	}
	if len(list) == 0 {
		t.Skip("a shell is needed")
	}
	for _, tool := range []string{"curl", "wget"} {
		if _, err := exec.LookPath(tool); err == nil {
			return list
		}
	}
	t.Skip("curl or wget is needed")
	return nil
}

// server is a mirror with one release; change may spoil it.
func server(t *testing.T, change func(dir string)) string {
	t.Helper()
	dir := made(t, "v1.2.3")
	if change != nil {
		change(dir)
	}
	s := httptest.NewServer(http.FileServer(http.Dir(filepath.Dir(dir))))
	t.Cleanup(s.Close)
	return s.URL
}

// install pipes the script into a shell, as nobody in particular, and returns what it
// said.
func install(t *testing.T, shell []string, env ...string) (said string, ok bool) {
	t.Helper()
	cmd := exec.Command(shell[0], shell[1:]...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	cmd.Stdin = strings.NewReader(strings.ReplaceAll(string(installScript), "@VERSION@", "v1.2.3"))
	cmd.Dir = "/"
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	out, err := cmd.CombinedOutput()
	return string(out), err == nil
}

// home is a folder that whoever installs may write into.
func home(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "install-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestInstall(t *testing.T) {
	url := server(t, nil)
	for _, shell := range shells(t) {
		t.Run(strings.Join(shell, " "), func(t *testing.T) {
			h := home(t)
			said, ok := install(t, shell, "HOME="+h, "TUNMESH_RELEASES="+url)
			if !ok || !strings.Contains(said, `export PATH="$PATH:`+h+`/.tunmesh/bin"`) || !strings.Contains(said, "meshctl check --pre") {
				t.Fatalf("%v %s", ok, said)
			}
			for _, name := range []string{"meshctl", "kubectl-mesh", "meshctl-v1.2.3"} {
				out, err := exec.Command(filepath.Join(h, ".tunmesh/bin", name)).CombinedOutput()
				if want := "meshctl v1.2.3 for " + runtime.GOOS + " on " + runtime.GOARCH + "\n"; err != nil || string(out) != want {
					t.Errorf("%s: %q %v, want %q", name, out, err, want)
				}
			}
			// Again, elsewhere, found by its name already: nothing to be added.
			root := filepath.Join(h, "else where")
			said, ok = install(t, shell, "INSTALLROOT="+root, "TUNMESH_RELEASES="+url, "PATH="+os.Getenv("PATH")+":"+root+"/bin")
			if !ok || strings.Contains(said, "export PATH") {
				t.Errorf("%v %s", ok, said)
			}
			said, ok = install(t, shell, "INSTALLROOT="+root, "TUNMESH_RELEASES="+url)
			if !ok {
				t.Errorf("a second time: %s", said)
			}
			clean(t, root, "bin")
		})
	}
}

// clean fails if a folder has anything but what it should.
func clean(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && len(want) > 0 {
		t.Fatal(err)
	}
	for i, e := range entries {
		if i >= len(want) || e.Name() != want[i] {
			t.Errorf("%s has %s", dir, e.Name())
		}
	}
}

// What goes wrong is said in a line, and leaves nothing behind.
func TestInstallRefuses(t *testing.T) {
	name := "meshctl-v1.2.3-" + runtime.GOOS + "-" + runtime.GOARCH
	good := server(t, nil)
	spoilt := server(t, func(dir string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\necho evil\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	unsummed := server(t, func(dir string) {
		if err := os.WriteFile(filepath.Join(dir, sumsFile), []byte("abc  other\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	gone := server(t, func(dir string) {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	})
	for _, shell := range shells(t) {
		for what, c := range map[string]struct {
			env  []string
			says string
		}{
			"another sum":            {[]string{"TUNMESH_RELEASES=" + spoilt}, "nothing was installed"},
			"no sum":                 {[]string{"TUNMESH_RELEASES=" + unsummed}, "release v1.2.3 has no " + name},
			"no program":             {[]string{"TUNMESH_RELEASES=" + gone}, "cannot fetch"},
			"no such release":        {[]string{"TUNMESH_RELEASES=" + good, "TUNMESH_VERSION=v9.9.9"}, "there is no release v9.9.9"},
			"nobody answers":         {[]string{"TUNMESH_RELEASES=http://127.0.0.1:1"}, "cannot be reached"},
			"no version":             {[]string{"TUNMESH_VERSION=latest"}, `TUNMESH_VERSION is "latest"`},
			"another system":         {[]string{"PATH=" + uname(t, "Plan9", "x86_64")}, "this is Plan9"},
			"another machine":        {[]string{"PATH=" + uname(t, "Linux", "riscv64")}, "this is riscv64"},
			"a folder of another's":  {[]string{"INSTALLROOT=/proc/x"}, "cannot make the folder /proc/x/bin"},
			"nobody's home":          {[]string{"HOME="}, "HOME is not set"},
			"nothing to fetch it by": {[]string{"PATH=" + only(t, "uname", "mkdir", "rm")}, "neither curl nor wget"},
			"nothing to sum it by":   {[]string{"TUNMESH_RELEASES=" + good, "PATH=" + only(t, "uname", "mkdir", "rm", "awk", "cut", "sed", fetcher())}, "nothing here can compute"},
		} {
			t.Run(shell[0]+" "+what, func(t *testing.T) {
				h := home(t)
				said, ok := install(t, absolute(t, shell), append([]string{"HOME=" + h}, c.env...)...)
				if ok || !strings.Contains(said, c.says) || !strings.Contains(said, "install meshctl: ") {
					t.Errorf("%v %s", ok, said)
				}
				if _, err := os.Stat(filepath.Join(h, ".tunmesh")); err == nil {
					clean(t, filepath.Join(h, ".tunmesh"), "bin")
					clean(t, filepath.Join(h, ".tunmesh", "bin"))
				}
			})
		}
	}
}

// A script that was cut off anywhere does nothing at all.
func TestInstallCutOff(t *testing.T) {
	shell := shells(t)[0]
	h := home(t)
	for n := 0; n < len(installScript)-len("main\n"); n += 97 {
		cmd := exec.Command(shell[0], shell[1:]...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + h, "TUNMESH_RELEASES=http://127.0.0.1:1"}
		cmd.Stdin = strings.NewReader(string(installScript[:n]))
		_ = cmd.Run() // it may be no whole script
		clean(t, h)
	}
}

// absolute is a shell that is found whatever the PATH.
func absolute(t *testing.T, shell []string) []string {
	t.Helper()
	path, err := exec.LookPath(shell[0])
	if err != nil {
		t.Fatal(err)
	}
	return append([]string{path}, shell[1:]...)
}

func fetcher() string {
	if _, err := exec.LookPath("curl"); err == nil {
		return "curl"
	}
	return "wget"
}

// only is a PATH with these programs.
func only(t *testing.T, names ...string) string {
	t.Helper()
	dir := home(t)
	for _, n := range names {
		path, err := exec.LookPath(n)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(dir, n)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// uname is a PATH on which this machine is another.
func uname(t *testing.T, system, machine string) string {
	t.Helper()
	dir := home(t)
	if err := os.WriteFile(filepath.Join(dir, "uname"), []byte("#!/bin/sh\ncase $1 in -s) echo "+system+" ;; *) echo "+machine+" ;; esac\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir + ":" + os.Getenv("PATH")
}
