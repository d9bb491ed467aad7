package endurance_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// failure is a request that was not answered well, as endure ask prints it.
type failure struct {
	ID     string `json:"id"`
	Kind   string `json:"kind"`
	Start  int64  `json:"start"`
	End    int64  `json:"end"`
	What   string `json:"what"`
	Pod    string `json:"pod"`
	Meant  bool   `json:"meant"`
	Begun  bool   `json:"begun"`
	Mixed  bool   `json:"mixed"`
	Sender string `json:"sender"`
}

func (f failure) String() string {
	return fmt.Sprintf("%s %s, from %s for %v: %s (made by the mesh: %q)", f.Kind, f.ID,
		time.Unix(0, f.Start).Format("15:04:05.000"), time.Duration(f.End-f.Start).Round(time.Millisecond), f.What, f.Sender)
}

// event is something that may cost the requests under way at a pod: from when
// on, and until when at the latest those who call it have noticed.
type event struct {
	what, pod   string
	from, until time.Time
}

func (e event) String() string {
	return fmt.Sprintf("%s of %s at %s", e.what, e.pod, e.from.Format("15:04:05.000"))
}

// lasted: a request was under way while the event was going on.
func (e event) lasted(f failure) bool {
	return f.Start <= e.until.UnixNano() && f.End >= e.from.UnixNano() && f.End <= e.until.UnixNano()
}

// account is what the caller's sidecar counted between two looks: failures of
// requests that it had sent to a pod.
type account struct {
	pod         string
	after, till time.Time
	failures    int
}

// late is by how much a client may notice an answer later than its sidecar
// counted it.
const late = 2 * time.Second

func (a account) covers(f failure) bool {
	return a.after.UnixNano() <= f.End && a.till.UnixNano() >= f.End-int64(late)
}

// evidence is all that is known when a run is over.
type evidence struct {
	arrivals map[string][]arrival
	events   []event
	accounts []account
}

// Causes of failures.
const (
	byServer   = "the server's own error"
	byBreak    = "broken by the server itself"
	inFlight   = "in flight at "
	onTheWay   = "sent before anybody could know of "
	unresolved = ""
)

// judge says why a request failed, and nothing when there is no reason. A
// request that reached a server can only have failed for what happened to that
// one. One that reached none was under way to a pod to which its sidecar counted
// a failure just then.
func (v *evidence) judge(f failure) string {
	if f.Mixed {
		return unresolved
	}
	reached := v.arrivals[f.ID]
	for _, a := range reached {
		switch {
		case f.Meant && a.act == "error" && a.pod == f.Pod:
			return byServer
		case a.act == "break" && !f.Meant:
			return byBreak
		}
	}
	if f.Meant {
		return unresolved
	}
	pods := map[string]bool{}
	for _, a := range reached {
		pods[a.pod] = true
	}
	if len(reached) == 0 || v.movedOn(f, pods) {
		for _, a := range v.accounts {
			if a.failures > 0 && a.covers(f) {
				pods[a.pod] = true
			}
		}
	}
	for _, e := range v.events {
		if pods[e.pod] && e.lasted(f) {
			if f.Start < e.from.UnixNano() {
				return inFlight + e.what
			}
			return onTheWay + e.what
		}
	}
	return unresolved
}

// movedOn: the request may be repeated, and what happened to each server that it
// had reached made it go on to another one.
func (v *evidence) movedOn(f failure, pods map[string]bool) bool {
	if strings.HasSuffix(f.Kind, "post") || f.Kind == "grpc" {
		return false
	}
	for pod := range pods {
		struck := func(e event) bool {
			return e.pod == pod && f.Start <= e.until.UnixNano() && f.End >= e.from.UnixNano()
		}
		if !slices.ContainsFunc(v.events, struck) {
			return false
		}
	}
	return true
}

// cutOff: the server whose response had begun was killed, or broke off, meanwhile.
func (v *evidence) cutOff(f failure) bool {
	for _, e := range v.events {
		if e.pod == f.Pod && e.lasted(f) {
			return true
		}
	}
	return false
}

// TestJudge: who was not there is no excuse.
func TestJudge(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(100, 0).Add(time.Duration(ms) * time.Millisecond) }
	ns := func(ms int) int64 { return at(ms).UnixNano() }
	v := &evidence{
		arrivals: map[string][]arrival{
			"one":    {{pod: "v1", at: ns(10), act: "serve"}},
			"two":    {{pod: "v2", at: ns(10), act: "serve"}},
			"error":  {{pod: "v2", at: ns(10), act: "error"}},
			"broken": {{pod: "v2", at: ns(10), act: "break"}},
		},
		events:   []event{{what: "a kill", pod: "v1", from: at(20), until: at(5000)}},
		accounts: []account{{pod: "v1", after: at(0), till: at(500), failures: 1}, {pod: "v2", after: at(20000), till: at(20500), failures: 1}},
	}
	for name, c := range map[string]struct {
		f    failure
		want string
	}{
		"was at the killed one":                {failure{ID: "one", Start: ns(5), End: ns(30)}, inFlight + "a kill"},
		"was at another one":                   {failure{ID: "two", Start: ns(5), End: ns(30)}, unresolved},
		"was over before":                      {failure{ID: "one", Start: ns(5), End: ns(15)}, unresolved},
		"ended too long after":                 {failure{ID: "one", Start: ns(5), End: ns(6000)}, unresolved},
		"never arrived, was sent there":        {failure{ID: "none", Start: ns(5), End: ns(30)}, inFlight + "a kill"},
		"never arrived, was sent there later":  {failure{ID: "none", Start: ns(25), End: ns(400)}, onTheWay + "a kill"},
		"never arrived, was sent elsewhere":    {failure{ID: "none", Start: ns(20000), End: ns(20100)}, unresolved},
		"never arrived, nobody counted it":     {failure{ID: "none", Start: ns(25), End: ns(4000)}, unresolved},
		"the server meant it":                  {failure{ID: "error", Start: ns(5), End: ns(30), Meant: true, Pod: "v2"}, byServer},
		"another server than the one asked":    {failure{ID: "error", Start: ns(5), End: ns(30), Meant: true, Pod: "v1"}, unresolved},
		"meant, and nobody knows of it":        {failure{ID: "two", Start: ns(5), End: ns(30), Meant: true, Pod: "v2"}, unresolved},
		"the server broke the connection":      {failure{ID: "broken", Start: ns(5), End: ns(30)}, byBreak},
		"somebody else's answer, kill or none": {failure{ID: "one", Start: ns(5), End: ns(30), Mixed: true}, unresolved},
	} {
		if got := v.judge(c.f); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	// From a killed server on to a silent one.
	v.events = append(v.events, event{what: "silence", pod: "v3", from: at(0), until: at(9000)})
	v.accounts = append(v.accounts, account{pod: "v3", after: at(5900), till: at(6100), failures: 1})
	for kind, want := range map[string]string{"h1-get": onTheWay + "silence", "h1-post": unresolved} {
		if got := v.judge(failure{Kind: kind, ID: "one", Start: ns(5), End: ns(6000)}); got != want {
			t.Errorf("%s went on to a silent server: %q, want %q", kind, got, want)
		}
	}
	begun := failure{Pod: "v1", Begun: true, Start: ns(5), End: ns(30)}
	other := begun
	if other.Pod = "v2"; !v.cutOff(begun) || v.cutOff(other) {
		t.Error("who cut a response off")
	}
}
