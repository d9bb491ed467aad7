package object

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tunmesh/tunmesh/control/catalog"
)

// annotated is a Service with annotations, as name, value, name, value.
func annotated(pairs ...string) *corev1.Service {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "n", Annotations: m}}
}

// reads holds a Service's annotations to what is read, and to what the warning
// names; "" is no warning.
func reads(t *testing.T, want *catalog.Traffic, warning string, pairs ...string) {
	t.Helper()
	s, err := Service(annotated(pairs...))
	if !s.Traffic.Equal(want) {
		t.Errorf("%v: got %+v, want %+v", pairs, s.Traffic, want)
	}
	switch {
	case warning == "" && err != nil:
		t.Errorf("%v: %v", pairs, err)
	case warning != "" && (err == nil || !strings.Contains(err.Error(), warning) || !strings.Contains(err.Error(), "ignored")):
		t.Errorf("%v: warning %v, want one of %s", pairs, err, warning)
	}
}

func TestTimeouts(t *testing.T) {
	timeouts := func(request, response, idle time.Duration) *catalog.Traffic {
		return &catalog.Traffic{Timeouts: catalog.Timeouts{Request: request, Response: response, Idle: idle}}
	}
	const request, linkerds = "timeout.tunmesh.io/request", "timeout.linkerd.io/request"
	reads(t, nil, "")
	reads(t, nil, "", request, "0")
	reads(t, nil, "", request, "0s")
	reads(t, timeouts(time.Second, 200*time.Millisecond, 5*time.Minute), "",
		request, "1s", "timeout.tunmesh.io/response", " 200ms ", "timeout.tunmesh.io/idle", "5m")
	reads(t, timeouts(2*time.Hour, 0, 0), "", linkerds, "2h")
	reads(t, timeouts(time.Second, 0, 0), "", linkerds, "2h", request, "1s")
	for _, bad := range []string{"", "1", "s", "-1s", "1.5s", "1s ago", "1 s", "1w", "9999999999d", "99999999999999999999s"} {
		reads(t, timeouts(0, 0, time.Second), request, request, bad, "timeout.tunmesh.io/idle", "1s")
	}
	// What is malformed under our name is not made good by Linkerd's.
	reads(t, nil, request, request, "soon", linkerds, "2h")
	reads(t, nil, linkerds, linkerds, "soon")
}

func FuzzTraffic(f *testing.F) {
	f.Add("timeout.tunmesh.io/request", "1s")
	f.Add("timeout.linkerd.io/idle", "1d")
	f.Fuzz(func(t *testing.T, name, value string) {
		tr, err := traffic(map[string]string{name: value})
		if err != nil && !strings.Contains(err.Error(), name) {
			t.Errorf("the warning does not name %q: %v", name, err)
		}
		if tr != nil && (tr.Timeouts.Request < 0 || tr.Timeouts.Response < 0 || tr.Timeouts.Idle < 0) {
			t.Errorf("%q: %+v", value, tr)
		}
	})
}
