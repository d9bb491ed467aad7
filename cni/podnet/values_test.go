package podnet_test

import (
	"net/netip"
	"os"
)

func addrs(all ...string) (out []netip.Addr) {
	for _, a := range all {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func osWrite(path string) error { return os.WriteFile(path, nil, 0o444) }

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
