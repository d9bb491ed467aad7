// Command testapp is the only program of the pods that the harness's own tests
// run: a server that says what it sees, and the small tools that a pod without
// a shell lacks. It owns nothing.
//
//	testapp serve [ADDR]      HTTP: / says who and from where, /healthz, /env?name=X
//	testapp get URL           prints the body; exits with 1 on any failure
//	testapp lookup NAME       prints the addresses, one a line, sorted
//	testapp cat FILE          prints a file
//	testapp id                prints uid, capabilities and the map of user ids
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// limit bounds every question.
const limit = 10 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	args := append(os.Args[1:], "", "")
	if err := run(ctx, args[0], args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "testapp:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, what, arg string) error {
	switch what {
	case "serve":
		return serve(ctx, arg)
	case "get":
		return get(ctx, arg)
	case "lookup":
		return lookup(ctx, arg)
	case "cat":
		raw, err := os.ReadFile(arg)
		fmt.Print(string(raw))
		return err
	case "id":
		return id()
	}
	return errors.New("name one of serve, get, lookup, cat, id")
}

func serve(ctx context.Context, addr string) error {
	if addr == "" {
		addr = ":8080"
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s\n", host, r.RemoteAddr)
		fmt.Printf("%s %s from %s\n", r.Method, r.URL.Path, r.RemoteAddr)
	})
	mux.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/env", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, os.Getenv(r.FormValue("name"))) })
	srv := &http.Server{Addr: addr, Handler: mux, ReadHeaderTimeout: limit}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	fmt.Println("serving at", addr)
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func get(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(os.Stdout, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

func lookup(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupHost(ctx, name)
	if err != nil {
		return err
	}
	slices.Sort(addrs)
	fmt.Println(strings.Join(addrs, "\n"))
	return nil
}

func id() error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	users, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return err
	}
	for _, l := range regexp.MustCompile(`(?m)^(Uid|CapEff|NoNewPrivs|Seccomp):.*$`).FindAllString(string(status), -1) {
		fmt.Println(strings.Join(strings.Fields(l), " "))
	}
	fmt.Println("Map:", strings.Join(strings.Fields(string(users)), " "))
	return nil
}
