package nettest

import (
	"encoding/binary"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Filters lists the nft tables (as "nft") and iptables tables of the namespace.
func (s *Space) Filters() (tables []string) {
	s.tb.Helper()
	s.must(s.Do(func() error {
		n, err := nftTables()
		if err != nil {
			return err
		}
		for range n {
			tables = append(tables, "nft")
		}
		for _, f := range []string{"ip_tables_names", "ip6_tables_names", "arp_tables_names"} {
			raw, err := os.ReadFile("/proc/thread-self/net/" + f)
			if err == nil {
				tables = append(tables, strings.Fields(string(raw))...)
			}
		}
		return nil
	}), "list packet filters")
	return tables
}

// nftTables counts by NFT_MSG_GETTABLE; a kernel without nftables has none.
func nftTables() (n int, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err == unix.EPROTONOSUPPORT {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	msg := make([]byte, unix.NLMSG_HDRLEN+4) // header, nfgenmsg of all families
	binary.NativeEndian.PutUint32(msg, uint32(len(msg)))
	binary.NativeEndian.PutUint16(msg[4:], unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETTABLE)
	binary.NativeEndian.PutUint16(msg[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	if err := unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, err
	}
	buf := make([]byte, 64<<10)
	for {
		got, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return 0, err
		}
		for b := buf[:got]; len(b) >= unix.NLMSG_HDRLEN; {
			size := int(binary.NativeEndian.Uint32(b))
			switch binary.NativeEndian.Uint16(b[4:]) {
			case unix.NLMSG_DONE:
				return n, nil
			case unix.NLMSG_ERROR:
				return n, nil // EINVAL: no nftables in this kernel
			}
			n++
			size = (size + 3) &^ 3
			if size < unix.NLMSG_HDRLEN || size > len(b) {
				break
			}
			b = b[size:]
		}
	}
}
