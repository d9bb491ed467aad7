package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

// Times of the questions about the DaemonSet. All of judging has to fit into
// the pod's grace period.
const (
	learnAgain  = 10 * time.Second
	askWithin   = 4 * time.Second
	askAgain    = 500 * time.Millisecond
	judgeWithin = 12 * time.Second
)

// API is how a pod reaches its API server.
type API struct {
	// Server is its URL.
	Server string
	// Dir has the pod's token and the server's ca.crt.
	Dir string
}

// InCluster is the API of the pod that this process runs in.
func InCluster() (API, error) {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return API{}, errors.New("KUBERNETES_SERVICE_HOST and _PORT are not set: this is no pod of a cluster")
	}
	return API{Server: "https://" + net.JoinHostPort(host, port), Dir: "/var/run/secrets/kubernetes.io/serviceaccount"}, nil
}

// daemonSet is the agent's own. The agent may get it and nothing else; one GET
// does not need a client of all of Kubernetes.
type daemonSet struct {
	api  API
	path string
	log  *slog.Logger
	// seen: it was there, and this agent may look at it.
	seen atomic.Bool
}

// newDaemonSet takes NAMESPACE/NAME.
func newDaemonSet(name string, api API, log *slog.Logger) (*daemonSet, error) {
	ns, n, ok := strings.Cut(name, "/")
	if !ok || ns == "" || n == "" || strings.Contains(n, "/") {
		return nil, fmt.Errorf("--daemonset %q: want NAMESPACE/NAME", name)
	}
	return &daemonSet{api: api, log: log, path: "/apis/apps/v1/namespaces/" + url.PathEscape(ns) + "/daemonsets/" + url.PathEscape(n)}, nil
}

// sawDaemonSet is logged once it is known that this agent may look at its DaemonSet.
const sawDaemonSet = "the agent's DaemonSet is there"

// learn asks until the DaemonSet was seen.
func (d *daemonSet) learn(ctx context.Context) {
	for ctx.Err() == nil {
		removed, err := d.ask(ctx)
		if err == nil && !removed {
			d.seen.Store(true)
			d.log.Debug(sawDaemonSet)
			return
		}
		if err == nil {
			err = errors.New("it is not there")
		}
		d.log.Debug("look at the agent's DaemonSet", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(learnAgain):
		}
	}
}

// removed judges why this agent is told to end: its DaemonSet was deleted, or it
// is updated, moved or restarted. In doubt it is not removed: then entry and
// plugin stay, and pods that were injected wait for the next agent.
func (d *daemonSet) removed(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, judgeWithin)
	defer cancel()
	for {
		removed, err := d.ask(ctx)
		if err == nil {
			return removed
		}
		var status statusError
		if errors.As(err, &status) && (status == http.StatusUnauthorized || status == http.StatusForbidden) {
			// Rights that were there and are gone went with the rest.
			return d.seen.Load()
		}
		select {
		case <-ctx.Done():
			d.log.Warn("whether the mesh is removed from this node is not known: leave the CNI chain as it is", "error", err)
			return false
		case <-time.After(askAgain):
		}
	}
}

// statusError is an answer other than 200 and 404.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("the API server answers %d", int(e)) }

// ask reports whether the DaemonSet is gone or going.
func (d *daemonSet) ask(ctx context.Context) (removed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	// Both change while a pod runs.
	token, err := os.ReadFile(filepath.Join(d.api.Dir, "token"))
	if err != nil {
		return false, fmt.Errorf("read the agent's token: %w", err)
	}
	ca, err := os.ReadFile(filepath.Join(d.api.Dir, "ca.crt"))
	if err != nil {
		return false, fmt.Errorf("read the API server's authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return false, errors.New("read the API server's authority: no certificate in it")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.api.Server+d.path, nil)
	if err != nil {
		return false, fmt.Errorf("get the agent's DaemonSet: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Accept", "application/json")
	t := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	defer t.CloseIdleConnections()
	resp, err := (&http.Client{Transport: t}).Do(req)
	if err != nil {
		return false, fmt.Errorf("get the agent's DaemonSet: %w", err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusNotFound:
		return true, nil
	case http.StatusOK:
	default:
		return false, fmt.Errorf("get the agent's DaemonSet: %w", statusError(resp.StatusCode))
	}
	var object struct {
		Metadata struct{ DeletionTimestamp *time.Time }
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 4<<20)).Decode(&object); err != nil {
		return false, fmt.Errorf("decode the agent's DaemonSet: %w", err)
	}
	return object.Metadata.DeletionTimestamp != nil, nil
}
