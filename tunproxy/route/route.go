// Package route says to which backend a request goes, and under which name it is
// counted. It owns the table of rules of one target and the order in which they
// apply; it refuses to know endpoints, discovery and what a backend is.
//
// A Table never changes; a new one replaces it. Every target has one rule today,
// the default, which takes everything; rules from route resources come before it.
package route

import "github.com/tunmesh/tunmesh/tunproxy/message"

// Ref names a resource in metrics (the labels route_group, route_kind,
// route_namespace, route_name).
type Ref struct{ Group, Kind, Namespace, Name string }

// DefaultRef is the name of the rule that every target has (Linkerd's names).
func DefaultRef() Ref { return Ref{Kind: "default", Name: "http"} }

// Rule sends what it matches to a backend. B is the owner's, such as a balancer.
type Rule[B any] struct {
	Ref     Ref
	Backend B
}

// Table is the rules of one target, in order.
type Table[B any] struct {
	rules []Rule[B]
}

// Default is the table of a target without rules of its own: all goes to backend.
func Default[B any](backend B) *Table[B] {
	return &Table[B]{rules: []Rule[B]{{Ref: DefaultRef(), Backend: backend}}}
}

// Find is the rule for a request; nil when none matches, which is a 404. It borrows
// h for the call. The nil table has no rules.
func (t *Table[B]) Find(_ *message.Head) *Rule[B] {
	if t == nil || len(t.rules) == 0 {
		return nil
	}
	return &t.rules[0]
}
