package render

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/tunmesh/tunmesh/api/query"
)

// Endpoint is an endpoint as JSON: Linkerd's field names, and what there is besides.
type Endpoint struct {
	Namespace string            `json:"namespace"`
	IP        string            `json:"ip"`
	Port      uint32            `json:"port"`
	Pod       string            `json:"pod"`
	Service   string            `json:"service"`
	Weight    uint32            `json:"weight"`
	HTTP2     bool              `json:"http2"` // requests go to it in HTTP/2
	Labels    map[string]string `json:"labels"`
	Ready     bool              `json:"ready"`
	Identity  string            `json:"identity"` // "": not meshed
}

// Endpoints prints endpoints as a table for each namespace: Linkerd's columns, then
// READY and IDENTITY.
func Endpoints(w io.Writer, rows []*query.EndpointRow) error {
	var spaces []string
	of := map[string][][]string{}
	for _, r := range rows {
		e := endpointOf(r)
		if of[e.Namespace] == nil {
			spaces = append(spaces, e.Namespace)
			of[e.Namespace] = [][]string{{"NAMESPACE", "IP", "PORT", "POD", "SERVICE", "READY", "IDENTITY"}}
		}
		ready := "no"
		if e.Ready {
			ready = "yes"
		}
		of[e.Namespace] = append(of[e.Namespace], []string{
			e.Namespace, e.IP, fmt.Sprint(e.Port), cmp.Or(e.Pod, "-"), e.Service, ready, cmp.Or(e.Identity, "-"),
		})
	}
	slices.Sort(spaces)
	for i, ns := range spaces {
		if i > 0 {
			if _, err := fmt.Fprintln(w); err != nil {
				return err
			}
		}
		if err := Table(w, of[ns]); err != nil {
			return err
		}
	}
	return nil
}

// EndpointsJSON prints endpoints as one JSON document: a list.
func EndpointsJSON(w io.Writer, rows []*query.EndpointRow) error {
	out := make([]Endpoint, 0, len(rows))
	for _, r := range rows {
		out = append(out, endpointOf(r))
	}
	return writeJSON(w, out)
}

// endpointOf names the pod within its namespace, and the Service as clients do.
func endpointOf(r *query.EndpointRow) Endpoint {
	e := Endpoint{
		Namespace: r.GetNamespace(), IP: r.GetIp(), Port: r.GetPort(), Weight: r.GetWeight(), HTTP2: r.GetHttp2(), Labels: r.GetLabels(),
		Ready: r.GetReady(), Identity: r.GetIdentity(),
	}
	_, e.Pod, _ = strings.Cut(r.GetPod(), "/")
	if ns, name, ok := strings.Cut(r.GetService(), "/"); ok {
		e.Service = name + "." + ns
	}
	if e.Labels == nil {
		e.Labels = map[string]string{}
	}
	return e
}
