package peer

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/tunmesh/tunmesh/bench/proc"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

const (
	// maxTapped is as many requests a second as a tap may ask for.
	maxTapped = 10_000
	// collectorPort is where a collector of traces listens.
	collectorPort = annotation.DefaultCollectorPort
)

// collector is a pod outside of the mesh that takes spans and throws them away; at
// is its address for the sidecars' annotation.
func (m *mesh) collector() (at string, err error) {
	space, addr := m.e.Bridge.Host()
	m.hosts = append(m.hosts, space)
	if err := m.declare("collector", m.object("collector", "collector", "uid-collector", addr, false)); err != nil {
		return "", err
	}
	at = fmt.Sprintf("%v:%d", addr, collectorPort)
	p, err := m.e.start(proc.Spec{Path: filepath.Join(m.e.Bin, "watch"), Args: []string{"spans", at}, Space: space, Silent: true})
	if err != nil {
		return "", err
	}
	m.watcher = p
	return at, listening(p, collectorPort)
}

// declare tells the control plane of a pod, in a file of its own: it reads whole ones
// only.
func (m *mesh) declare(name string, p *corev1.Pod) error {
	raw, err := json.Marshal(p)
	if err != nil {
		return err
	}
	tmp := m.path("pods", "."+name)
	return errors.Join(os.WriteFile(tmp, raw, 0o600), os.Rename(tmp, m.path("pods", name+".json")))
}

// tap follows the server's pod, everything that it is asked and answers.
func (m *mesh) tap(perSecond int) error {
	p, err := m.e.start(proc.Spec{
		Path: filepath.Join(m.e.Bin, "watch"), Args: []string{"tap", m.path("query.sock"), strconv.Itoa(perSecond), meshNS + "/server"}, Space: m.space, Silent: true,
	})
	if err != nil {
		return err
	}
	m.watcher = p
	return await(p, func() error {
		if len(seen(p)) == 0 {
			return errors.New("the tap does not run")
		}
		return nil
	})
}

// seen is what a watcher said last, "events=3 lost=0", by name.
func seen(p *proc.Process) map[string]uint64 {
	says := p.Says()
	all := map[string]uint64{}
	for word := range strings.FieldsSeq(says[strings.LastIndexByte(says, '\n')+1:]) {
		name, value, _ := strings.Cut(word, "=")
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return nil // it said something else
		}
		all[name] = n
	}
	return all
}
