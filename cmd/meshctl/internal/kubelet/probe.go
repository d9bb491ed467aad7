package kubelet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// eager is how often a probe is tried until it succeeds for the first time. A
// kubelet waits a whole period; counting failures, we do too.
const eager = 100 * time.Millisecond

// prober asks one container.
type prober struct {
	addr string // of the pod
	c    *corev1.Container
	exec func(ctx context.Context, argv []string) (code int, err error)
}

// once asks the probe's question and returns why the answer is no.
func (q *prober) once(ctx context.Context, p *corev1.Probe) error {
	ctx, cancel := context.WithTimeout(ctx, max(time.Duration(p.TimeoutSeconds)*time.Second, time.Second))
	defer cancel()
	switch {
	case p.HTTPGet != nil:
		return q.http(ctx, p.HTTPGet)
	case p.TCPSocket != nil:
		port, err := q.port(p.TCPSocket.Port)
		if err != nil {
			return err
		}
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(q.host(p.TCPSocket.Host), port))
		if err != nil {
			return err
		}
		return c.Close()
	case p.GRPC != nil:
		return q.grpc(ctx, p.GRPC)
	case p.Exec != nil:
		code, err := q.exec(ctx, p.Exec.Command)
		if err != nil {
			return err
		}
		if code != 0 {
			return fmt.Errorf("%q exited with code %d", p.Exec.Command, code)
		}
		return nil
	}
	return errors.New("the probe names no way to ask")
}

func (q *prober) host(h string) string {
	if h != "" {
		return h
	}
	return q.addr
}

func (q *prober) port(p intstr.IntOrString) (string, error) {
	if p.Type == intstr.Int {
		return strconv.Itoa(int(p.IntVal)), nil
	}
	for _, cp := range q.c.Ports {
		if cp.Name == p.StrVal {
			return strconv.Itoa(int(cp.ContainerPort)), nil
		}
	}
	return "", fmt.Errorf("the container has no port %q", p.StrVal)
}

func (q *prober) http(ctx context.Context, g *corev1.HTTPGetAction) error {
	port, err := q.port(g.Port)
	if err != nil {
		return err
	}
	scheme, path := "http", g.Path
	if g.Scheme == corev1.URISchemeHTTPS {
		scheme = "https"
	}
	if path == "" || path[0] != '/' {
		path = "/" + path
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+net.JoinHostPort(q.host(g.Host), port)+path, nil)
	if err != nil {
		return err
	}
	r.Header.Set("User-Agent", "kube-probe/1.34")
	r.Header.Set("Accept", "*/*")
	for _, h := range g.HTTPHeaders {
		if http.CanonicalHeaderKey(h.Name) == "Host" {
			r.Host = h.Value
			continue
		}
		r.Header.Add(h.Name, h.Value)
	}
	// One connection a probe, and no certificate is checked: as a kubelet does.
	t := &http.Transport{DisableKeepAlives: true, DisableCompression: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer t.CloseIdleConnections()
	client := http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 10<<10))
	if resp.StatusCode < 200 || resp.StatusCode >= 400 {
		return fmt.Errorf("%s answered %s", r.URL, resp.Status)
	}
	return nil
}

func (q *prober) grpc(ctx context.Context, g *corev1.GRPCAction) error {
	conn, err := grpc.NewClient("passthrough:///"+net.JoinHostPort(q.addr, strconv.Itoa(int(g.Port))), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	service := ""
	if g.Service != nil {
		service = *g.Service
	}
	resp, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service})
	if err != nil {
		return err
	}
	if resp.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		return fmt.Errorf("the service says %s", resp.GetStatus())
	}
	return nil
}

// watch asks again and again until ctx ends, and tells changes: set(true) after
// successThreshold successes, set(false) after failureThreshold failures. Until
// the first success it asks eagerly, and counts one failure a period.
func (q *prober) watch(ctx context.Context, p *corev1.Probe, set func(ok bool, why error)) {
	period := max(time.Duration(p.PeriodSeconds)*time.Second, time.Second)
	if !sleep(ctx, time.Duration(p.InitialDelaySeconds)*time.Second) {
		return
	}
	var good, bad int32
	seen := false
	counted := time.Now()
	for {
		err := q.once(ctx, p)
		if ctx.Err() != nil {
			return
		}
		wait := period
		if err == nil {
			good, bad, seen = good+1, 0, true
			if good >= max(p.SuccessThreshold, 1) {
				set(true, nil)
			}
		} else {
			good = 0
			if !seen {
				wait = min(eager, period)
			}
			if seen || time.Since(counted) >= period {
				bad++
				counted = time.Now()
			}
			if bad >= max(p.FailureThreshold, 1) {
				set(false, err)
				bad = 0
			}
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// sleep waits, and reports false when ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// devNull is what exec probes read from and write to.
func devNull() (*os.File, error) { return os.OpenFile(os.DevNull, os.O_RDWR, 0) }
