package keeper

import (
	"slices"
	"testing"
)

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
