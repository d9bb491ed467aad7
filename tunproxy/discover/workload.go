package discover

import (
	"unique"

	"github.com/tunmesh/tunmesh/internal/spiffe"
)

// A Workload is what the endpoints of one workload have in common, held once in the
// process however many they are. Equal ones are ==; the zero Workload has no zone,
// no identity and no labels.
type Workload struct{ h unique.Handle[common] }

type common struct {
	zone   string
	id     spiffe.ID
	labels Labels
}

// WorkloadOf is the workload with an identity (zero: the explicit statement that
// its endpoints speak plain text) and labels.
func WorkloadOf(zone string, id spiffe.ID, labels Labels) Workload {
	c := common{zone, id, labels}
	if c == (common{}) {
		return Workload{}
	}
	return Workload{unique.Make(c)}
}

func (w Workload) common() common {
	if w == (Workload{}) {
		return common{}
	}
	return w.h.Value()
}

// Zone is where the endpoints are.
func (w Workload) Zone() string { return w.common().zone }

// Identity is the only one accepted from the endpoints.
func (w Workload) Identity() spiffe.ID { return w.common().id }

// Labels of the endpoints in metrics.
func (w Workload) Labels() Labels { return w.common().labels }
