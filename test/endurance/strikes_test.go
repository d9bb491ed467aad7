package endurance_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/test/meshtest"
)

// victims are the pods that things happen to.
type victims struct {
	t    *testing.T
	m    *meshtest.Mesh
	rand *rand.Rand

	born   int
	busy   map[string]time.Time // until when somebody suffers, and is left alone
	gone   map[string]bool      // told to end
	events []event
	did    map[string]int
	diary  []string // what was done when
	undo   []*time.Timer
	said   chan error // what went wrong beside
}

// How many there are; wellAlways suffer from nothing at any time.
const (
	atFirst, atMost, atLeast = 6, 8, 5
	wellAlways               = 2
)

func newVictims(t *testing.T, r *rand.Rand) *victims {
	return &victims{
		t: t, rand: r, busy: map[string]time.Time{}, gone: map[string]bool{}, did: map[string]int{}, said: make(chan error, 100),
	}
}

// next is the manifest of one more.
func (v *victims) next() string {
	v.born++
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata:
  name: v%d
  namespace: default
  labels: {app: victim}
  annotations: {tunmesh.io/inject: enabled}
spec:
  containers:
    - name: app
      image: endure
      command: [endure, serve]
      readinessProbe: {tcpSocket: {port: 8081}, periodSeconds: 1}
`, v.born)
}

// strike does something to somebody.
func (v *victims) strike() {
	v.t.Helper()
	now := time.Now()
	var well []meshtest.Pod
	alive := 0
	for _, p := range v.m.Pods(v.t) {
		if !strings.HasPrefix(p.Name, "v") || v.gone[p.Name] {
			continue
		}
		alive++
		if p.Ready && v.busy[p.Name].Before(now) && p.PIDs["app"] > 1 && p.PIDs["mesh-proxy"] > 1 {
			well = append(well, p)
		}
	}
	n := v.rand.IntN(22)
	between := func(from, to time.Duration) time.Duration { return from + time.Duration(v.rand.Int64N(int64(to-from))) }
	switch {
	case n < 2 && alive < atMost:
		v.add()
		return
	case len(well) <= wellAlways:
		v.did["nothing, too few are well"]++
		return
	}
	p := well[v.rand.IntN(len(well))]
	app, proxy := p.PIDs["app"], p.PIDs["mesh-proxy"]
	suffers := func(what string, d time.Duration) {
		v.done(what, fmt.Sprintf("%s, %v", p.Name, d.Round(time.Millisecond)))
		v.busy[p.Name] = time.Now().Add(d)
	}
	kills := func(what string, pid int, noticed time.Duration) {
		from := time.Now()
		v.signal(pid, syscall.SIGKILL)
		v.events = append(v.events, event{what: what, pod: p.Name, from: from, until: from.Add(noticed)})
		suffers(what, 3*time.Second)
	}
	switch {
	case n < 4 && alive > atLeast:
		v.remove(p.Name)
	case n < 7:
		kills("a killed app", app, 2*time.Second)
	case n < 9:
		kills("a killed sidecar", proxy, 6*time.Second)
	case n < 11:
		// Everything in it, and its network: nobody is told anything.
		kills("a killed pod", v.first(app), 9*time.Second)
	case n < 12:
		// For longer than its peers wait for a sign.
		d := between(6*time.Second, 8*time.Second)
		from := time.Now()
		v.freeze(proxy, d)
		v.events = append(v.events, event{what: "a sidecar without a sign", pod: p.Name, from: from, until: from.Add(d + 3*time.Second)})
		suffers("a sidecar without a sign", d+2*time.Second)
	case n < 14:
		d := between(100*time.Millisecond, 1500*time.Millisecond)
		v.freeze(proxy, d)
		suffers("a sidecar stopped for a moment", d)
	case n < 16:
		d := between(100*time.Millisecond, 2*time.Second)
		v.freeze(app, d)
		suffers("an app stopped for a moment", d)
	default:
		kind := []string{"slow", "error", "break"}[n%3]
		d := between(time.Second, 4*time.Second)
		v.mood(app, kind)
		v.later(d, func() { v.mood(app, "") })
		suffers("mood: "+kind, d)
	}
}

// done notes a strike.
func (v *victims) done(what, whom string) {
	v.did[what]++
	v.diary = append(v.diary, fmt.Sprintf("%s %s: %s", time.Now().Format("15:04:05.000"), what, whom))
}

func (v *victims) add() {
	v.done("added", fmt.Sprintf("v%d", v.born+1))
	cmd := v.m.Command(v.t.Context(), "local", "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(v.next())
	v.beside(cmd.CombinedOutput)
}

// remove ends a pod in order; nobody may notice.
func (v *victims) remove(pod string) {
	v.done("removed in order", pod)
	v.gone[pod] = true
	v.beside(v.m.Command(v.t.Context(), "local", "delete", "pod/"+pod).CombinedOutput)
}

func (v *victims) beside(f func() ([]byte, error)) {
	go func() {
		if out, err := f(); err != nil {
			v.said <- fmt.Errorf("%w: %s", err, out)
		}
	}()
}

func (v *victims) signal(pid int, s syscall.Signal) {
	if pid > 1 {
		_ = syscall.Kill(pid, s) // one that has just ended is as well
	}
}

// first is the pod's first process.
func (v *victims) first(pid int) int {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	parent := 0
	for line := range strings.Lines(string(raw)) {
		_, _ = fmt.Sscanf(line, "PPid: %d", &parent)
	}
	return parent
}

func (v *victims) freeze(pid int, d time.Duration) {
	v.signal(pid, syscall.SIGSTOP)
	v.later(d, func() { v.signal(pid, syscall.SIGCONT) })
}

// mood tells a server how to behave; one that has ended needs no telling, and one
// that has only begun makes its file soon.
func (v *victims) mood(pid int, kind string) {
	var err error
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var f *os.File
		f, err = os.OpenFile(fmt.Sprintf("/proc/%d/root/tmp/mood", pid), os.O_WRONLY|os.O_TRUNC, 0)
		if err == nil {
			_, err = f.WriteString(kind)
			err = errors.Join(err, f.Close())
		}
		if err == nil || ended(pid) {
			return
		}
		if !errors.Is(err, os.ErrNotExist) || time.Now().After(end) {
			break
		}
	}
	v.said <- fmt.Errorf("tell a server its mood: %w", err)
}

// ended reports whether a process is gone, or dead and not yet taken note of: it has
// no files any more, but still a number.
func ended(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, ok := strings.Cut(string(raw), ") ")
	return err != nil || ok && strings.ContainsAny(state[:1], "ZX")
}

// later undoes something, once: a process that it is about may be another's number
// by the end.
func (v *victims) later(d time.Duration, f func()) {
	v.undo = append(v.undo, time.AfterFunc(d, sync.OnceFunc(f)))
}

// heal ends what lasts.
func (v *victims) heal() {
	for _, u := range v.undo {
		u.Reset(0)
	}
}

// told is what was done, in words.
func (v *victims) told() string {
	var b strings.Builder
	for _, what := range slices.Sorted(maps.Keys(v.did)) {
		fmt.Fprintf(&b, "\n  %4d  %s", v.did[what], what)
	}
	return b.String()
}
