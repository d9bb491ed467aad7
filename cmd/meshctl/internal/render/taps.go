package render

import (
	"fmt"
	"io"
	"strings"

	"github.com/tunmesh/tunmesh/api/query"
)

// Taps prints which pods can be tapped, as Linkerd's list does.
func Taps(w io.Writer, rows []*query.TapsRow) error {
	if len(rows) == 0 {
		_, err := fmt.Fprintln(w, "No meshed pods found")
		return err
	}
	var b strings.Builder
	for _, g := range []struct {
		state query.TapsRow_State
		head  string
	}{
		{query.TapsRow_ENABLED, "Pods with tap enabled"},
		{query.TapsRow_DISABLED, "Pods with tap disabled"},
		{query.TapsRow_NOT_CONNECTED, "Pods whose sidecar is not connected to the control plane"},
	} {
		n := 0
		for _, r := range rows {
			if r.GetState() != g.state {
				continue
			}
			if n++; n == 1 {
				b.WriteString(g.head + ":\n")
			}
			fmt.Fprintf(&b, "\t* %s/%s\n", r.GetNamespace(), r.GetPod())
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// TapsJSON prints the same as one JSON document: a list.
func TapsJSON(w io.Writer, rows []*query.TapsRow) error {
	type row struct {
		Namespace string `json:"namespace"`
		Pod       string `json:"pod"`
		Tap       string `json:"tap"`
	}
	out := make([]row, 0, len(rows))
	for _, r := range rows {
		out = append(out, row{r.GetNamespace(), r.GetPod(), strings.ToLower(strings.ReplaceAll(r.GetState().String(), "_", " "))})
	}
	return writeJSON(w, out)
}
