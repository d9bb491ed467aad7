package catalog

import "reflect"

// Change says that an object is now as given, or is gone.
type Change struct {
	Ref    Ref
	Object Object // nil: gone
}

// Put is the Change that adds or replaces an object.
func Put(o Object) Change { return Change{Ref: o.Ref(), Object: o} }

// Delete is the Change that removes an object; of one that is not there, nothing.
func Delete(r Ref) Change { return Change{Ref: r} }

// Diff lists the changes from one whole state to another: what is gone first,
// in no particular order otherwise. A source that reads everything at once
// tells the catalog only what is different.
func Diff(from, to map[Ref]Object) []Change {
	var changes []Change
	for r := range from {
		if _, ok := to[r]; !ok {
			changes = append(changes, Delete(r))
		}
	}
	for r, o := range to {
		if old, ok := from[r]; !ok || !reflect.DeepEqual(old, o) {
			changes = append(changes, Put(o))
		}
	}
	return changes
}
