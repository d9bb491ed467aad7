package store

import (
	"sync"

	"github.com/prometheus/common/model"
)

// maxFamilies bounds the families whose meaning is kept.
const maxFamilies = 2000

// Meaning is what pages say of a family of metrics.
type Meaning struct {
	Type string `json:"type"`
	Help string `json:"help"`
	Unit string `json:"unit"`
}

// metadata is what all pages say of their families: the last word holds.
type metadata struct {
	mu       sync.RWMutex
	families map[string]Meaning
}

func newMetadata() *metadata { return &metadata{families: map[string]Meaning{}} }

func (m *metadata) kind(name []byte, t model.MetricType) {
	m.set(name, func(f Meaning) (Meaning, bool) { return Meaning{string(t), f.Help, ""}, f.Type == string(t) })
}

func (m *metadata) help(name, text []byte) {
	m.set(name, func(f Meaning) (Meaning, bool) { return Meaning{f.Type, string(text), ""}, f.Help == string(text) })
}

// set changes a family's meaning unless that is as it should be, which it nearly
// always is.
func (m *metadata) set(name []byte, change func(Meaning) (now Meaning, same bool)) {
	m.mu.RLock()
	old, there := m.families[string(name)]
	now, same := change(old)
	full := len(m.families) >= maxFamilies
	m.mu.RUnlock()
	if there && same || !there && full {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.families[string(name)] = now
}

// list returns the meaning of one family, or of all for "", at most limit.
func (m *metadata) list(name string, limit int) map[string][]Meaning {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := map[string][]Meaning{}
	for n, f := range m.families {
		if (name == "" || n == name) && len(out) < limit {
			out[n] = []Meaning{f}
		}
	}
	return out
}
