package load_test

import (
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/bench/load"
)

// serving says that this test binary is the server: Serve never returns, so it
// gets a process of its own.
const serving = "LOAD_TEST_SERVES"

func TestMain(m *testing.M) {
	if addrs := os.Getenv(serving); addrs != "" {
		if err := load.Serve(netip.MustParseAddrPort(addrs+":17401"), netip.MustParseAddrPort(addrs+":17402")); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

func server(t *testing.T) (echo, sink netip.AddrPort) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serving+"=127.0.0.1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	echo, sink = netip.MustParseAddrPort("127.0.0.1:17401"), netip.MustParseAddrPort("127.0.0.1:17402")
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		err = unix.Connect(fd, &unix.SockaddrInet4{Port: 17402, Addr: [4]byte{127, 0, 0, 1}})
		_ = unix.Close(fd)
		if err == nil {
			return echo, sink
		}
	}
	t.Fatal("the server does not come up")
	return echo, sink
}

func TestClients(t *testing.T) {
	echo, sink := server(t)
	const d = 50 * time.Millisecond
	for _, conns := range []int{1, 8} {
		r, err := load.PingPong(echo, conns, 128, d)
		if err != nil || r.Count == 0 || r.All <= r.Count || r.P50 <= 0 || r.P50 > r.P99 || r.P99 > r.Max || r.Connections != conns {
			t.Errorf("ping-pong: %+v, %v", r, err)
		}
		if r, err = load.Bulk(sink, conns, d); err != nil || r.Gbit <= 0 {
			t.Errorf("bulk: %+v, %v", r, err)
		}
	}
	if r, err := load.Connect(echo, 128, d); err != nil || r.Count == 0 || r.Rate <= 0 {
		t.Errorf("connect: %+v, %v", r, err)
	}
	if _, err := load.PingPong(netip.MustParseAddrPort("127.0.0.1:1"), 1, 1, d); err == nil {
		t.Error("nobody is there and no error says so")
	}
}
