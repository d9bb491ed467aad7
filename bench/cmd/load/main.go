// Command load is one end of a measurement: "serve ECHO SINK" or
// "ping|bulk|connect TARGET", which prints one JSON object.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/tunmesh/tunmesh/bench/load"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "load: error:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("say serve, ping, bulk or connect")
	}
	fs := flag.NewFlagSet(args[0], flag.ContinueOnError)
	conns := fs.Int("conns", 1, "connections at once")
	size := fs.Int("size", 128, "bytes of a message")
	d := fs.Duration("duration", 2*time.Second, "how long to measure")
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	var addrs []netip.AddrPort
	for _, a := range fs.Args() {
		p, err := netip.ParseAddrPort(a)
		if err != nil {
			return err
		}
		addrs = append(addrs, p)
	}
	// One thread that never gives way, and no collector: nothing here makes garbage.
	runtime.LockOSThread()
	debug.SetGCPercent(-1)
	want := 1
	if args[0] == "serve" {
		want = 2
	}
	if len(addrs) != want {
		return fmt.Errorf("%s: %d addresses, need %d", args[0], len(addrs), want)
	}
	var r load.Result
	var err error
	switch args[0] {
	case "serve":
		return load.Serve(addrs[0], addrs[1])
	case "ping":
		r, err = load.PingPong(addrs[0], *conns, *size, *d)
	case "bulk":
		r, err = load.Bulk(addrs[0], *conns, *d)
	case "connect":
		r, err = load.Connect(addrs[0], *size, *d)
	default:
		return fmt.Errorf("%s: not serve, ping, bulk or connect", args[0])
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}
