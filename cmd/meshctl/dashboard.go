package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/dashboard"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/render"
	"github.com/tunmesh/tunmesh/internal/version"
)

const (
	showBrowser = "browser"
	showURL     = "url"
	// leaveWithin bounds what requests in progress may still take at the end.
	leaveWithin = time.Second
)

func (a *app) dashboardCommand() *cobra.Command {
	var (
		port uint16
		show string
	)
	c := &cobra.Command{
		Use:   "dashboard",
		Short: "Open the console in a browser",
		Long: `Serves the console on this machine's loopback until interrupted, and opens it. What
it shows is asked with your own rights: those of the kubeconfig, or of root for a
local mesh. The link that is printed lets one browser in, once.`,
		Example: `  meshctl dashboard
  meshctl dashboard --show url --port 9000
  sudo meshctl dashboard --local demo`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if show != showBrowser && show != showURL {
				return usage("--show %q: want browser or url", show)
			}
			cfg, err := a.dashboardConfig(cmd)
			if err != nil {
				return err
			}
			return a.serveDashboard(cmd.Context(), cfg, port, show == showBrowser)
		},
	}
	c.Flags().Uint16VarP(&port, "port", "p", 0, "port of 127.0.0.1 to listen on; 0 takes a free one")
	c.Flags().StringVar(&show, "show", showBrowser, "browser opens it; url prints the link alone")
	return c
}

// dashboardConfig finds the mesh that is meant.
func (a *app) dashboardConfig(cmd *cobra.Command) (dashboard.Config, error) {
	at, err := a.asked(cmd)
	if err != nil {
		return dashboard.Config{}, err
	}
	session := dashboard.Session{Version: version.String(), Namespace: at.namespace, Command: "meshctl"}
	if a.asksLocal(cmd) {
		if err := a.needRoot(); err != nil {
			return dashboard.Config{}, err
		}
		d, err := a.mesh()
		if err != nil {
			return dashboard.Config{}, err
		}
		if !d.Held() {
			return dashboard.Config{}, fmt.Errorf("no local mesh %q is running: start one with meshctl local up, or name another with --local", d.Name())
		}
		session.Local, session.Mesh, session.Command = true, "local mesh "+d.Name(), "sudo meshctl --local "+d.Name()
		var dial net.Dialer
		return dashboard.Config{
			Session: session, Target: &url.URL{Scheme: "http", Host: "view"},
			Transport: &http.Transport{
				DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					return dial.DialContext(ctx, "unix", d.View())
				},
				DisableCompression: true, ResponseHeaderTimeout: askWithin, IdleConnTimeout: time.Minute,
			},
			Check: func(ctx context.Context) ([]render.CheckCategory, error) { return a.checks(ctx), nil },
		}, nil
	}
	cfg, err := a.restConfig()
	if err != nil {
		return dashboard.Config{}, fmt.Errorf("%w (a local mesh is named by --local)", err)
	}
	cfg.Timeout = 0 // a tap lasts
	cfg.DisableCompression = true
	target, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		return dashboard.Config{}, fmt.Errorf("find the cluster: %w", err)
	}
	transport, err := rest.TransportFor(cfg)
	if err != nil {
		return dashboard.Config{}, fmt.Errorf("connect to the cluster: %w", err)
	}
	session.Mesh = cfg.Host
	return dashboard.Config{
		Session: session, Target: target, Transport: transport,
		Check: func(ctx context.Context) ([]render.CheckCategory, error) { return a.clusterChecks(ctx, checkFlags{}) },
	}, nil
}

// serveDashboard serves until ctx ends.
func (a *app) serveDashboard(ctx context.Context, cfg dashboard.Config, port uint16, open bool) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return fmt.Errorf("dashboard: %w: choose another with --port", err)
	}
	d, err := dashboard.New(cfg, l.Addr().(*net.TCPAddr))
	if err != nil {
		return errors.Join(err, l.Close())
	}
	s := &http.Server{Handler: d, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10}
	failed := make(chan error, 1) // of one slot: Serve returns once
	go func() { failed <- s.Serve(l) }()
	a.showDashboard(d.Link(), cfg.Session.Mesh, open)
	select {
	case err := <-failed:
		return fmt.Errorf("dashboard: %w", err)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveWithin)
	defer cancel()
	if s.Shutdown(end) != nil {
		_ = s.Close() // of taps that go on
	}
	<-failed
	return nil
}

// showDashboard says where it is, and opens it where that makes sense: browsers
// refuse to run as root.
func (a *app) showDashboard(link, mesh string, open bool) {
	if !open {
		fmt.Fprintln(a.out, link)
		return
	}
	fmt.Fprintf(a.out, "The console of %s is at\n\n  %s\n\nfor one browser, once. Ctrl-C ends it.\n", mesh, link)
	if os.Geteuid() == 0 {
		fmt.Fprintln(a.err, "Open the link in a browser: none is started as root.")
		return
	}
	name, args := opener()
	cmd := exec.Command(name, append(args, link)...) //nolint:gosec // the link is ours
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(a.err, "No browser could be started: open the link in one.")
		return
	}
	go func() { _ = cmd.Wait() }() // its end is nobody's business, but it must not stay as a zombie
}

// opener is the program that opens a URL as the desktop wants it.
func opener() (name string, args []string) {
	switch runtime.GOOS {
	case "darwin":
		return "open", nil
	case "windows":
		return "rundll32", []string{"url.dll,FileProtocolHandler"}
	}
	return "xdg-open", nil
}
