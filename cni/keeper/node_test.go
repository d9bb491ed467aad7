package keeper

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// FuzzPlace: a cgroup is below a mount point, or nowhere.
func FuzzPlace(f *testing.F) {
	f.Add("0::/init.scope\n", "26 25 0:23 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n")
	f.Add("5:cpu,cpuacct:/a/../..\n", "31 26 0:27 /a /sys/fs/cgroup/cpu rw shared:5 - cgroup cgroup rw,cpu,cpuacct\n")
	f.Fuzz(func(t *testing.T, cgroups, mounts string) {
		for _, c := range parseCgroups(cgroups) {
			dir, ok := place(c, mounts)
			if !ok {
				continue
			}
			below := func(line string) bool {
				f := strings.Fields(line)
				return len(f) > 4 && (dir == filepath.Clean(f[4]) || strings.HasPrefix(dir, strings.TrimSuffix(filepath.Clean(f[4]), "/")+"/"))
			}
			if !slices.ContainsFunc(strings.Split(mounts, "\n"), below) {
				t.Errorf("%q is below no mount point of %q", dir, mounts)
			}
		}
	})
}

func TestPlace(t *testing.T) {
	const (
		unified  = "26 25 0:23 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
		version1 = "30 26 0:26 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n" +
			"31 26 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:5 - cgroup cgroup rw,cpu,cpuacct\n" +
			"32 26 0:28 /node1 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
	)
	for _, c := range []struct {
		in     cgroup
		mounts string
		want   string // "": not found
	}{
		{cgroup{"", "/init.scope"}, unified, "/sys/fs/cgroup/init.scope"},
		{cgroup{"", "/"}, unified, "/sys/fs/cgroup"},
		{cgroup{"", "/"}, version1, ""},
		{cgroup{"memory", "/"}, unified, ""},
		{cgroup{"name=systemd", "/init.scope"}, version1, "/sys/fs/cgroup/systemd/init.scope"},
		{cgroup{"cpu,cpuacct", "/"}, version1, "/sys/fs/cgroup/cpu,cpuacct"},
		{cgroup{"cpu", "/"}, version1, "/sys/fs/cgroup/cpu,cpuacct"},
		{cgroup{"memory", "/node1/kubelet"}, version1, "/sys/fs/cgroup/memory/kubelet"},
		{cgroup{"memory", "/node1"}, version1, "/sys/fs/cgroup/memory"},
		{cgroup{"memory", "/node2"}, version1, ""},
		{cgroup{"memory", "/"}, version1, ""},
		{cgroup{"pids", "/"}, version1, ""},
		{cgroup{"", "/"}, "nonsense\n - \n1 2 3 - cgroup2\n", ""},
	} {
		if got, ok := place(c.in, c.mounts); got != c.want || ok != (c.want != "") {
			t.Errorf("%+v: %q, want %q", c.in, got, c.want)
		}
	}
	got := parseCgroups("12:cpu,cpuacct:/a:b\n1:name=systemd:/\n0::/init.scope\nnonsense\n")
	if want := []cgroup{{"cpu,cpuacct", "/a:b"}, {"name=systemd", "/"}, {"", "/init.scope"}}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}
