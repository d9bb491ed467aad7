// Package untouched says what of the machine a cluster must leave alone. It owns
// the list, and refuses to know how clusters begin and end.
package untouched

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
)

// State is settings of the whole kernel, the addresses of the machine's own
// network, and whether folders are there, a line each: to be compared before and
// after.
func State(t *testing.T, folders ...string) (out []string) {
	t.Helper()
	for _, f := range []string{"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "net/ipv4/ip_forward"} {
		raw, err := os.ReadFile("/proc/sys/" + f)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, f+" = "+strings.TrimSpace(string(raw)))
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		out = append(out, a.String())
	}
	for _, d := range folders {
		_, err := os.Stat(d)
		out = append(out, fmt.Sprintf("%s is there: %t", d, err == nil))
	}
	return out
}
