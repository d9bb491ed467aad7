package route

import (
	"testing"

	"github.com/tunmesh/tunmesh/tunproxy/message"
)

func TestDefault(t *testing.T) {
	table := Default("backend")
	for _, h := range []*message.Head{{Method: "GET", Path: "/"}, {Method: "CONNECT", Authority: "a:1"}, {}} {
		r := table.Find(h)
		if r == nil || r.Backend != "backend" || r.Ref != (Ref{Kind: "default", Name: "http"}) {
			t.Errorf("%+v: %+v", h, r)
		}
	}
	var none *Table[string]
	if none.Find(&message.Head{}) != nil || (&Table[string]{}).Find(&message.Head{}) != nil {
		t.Error("a table without rules matched")
	}
}
