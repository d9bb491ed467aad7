package store

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/control/metrics"
)

// TestRecord: answers become series of a name; one that fails keeps none of the others
// from being kept, what is gone ends, and there are no more series than may be.
func TestRecord(t *testing.T) {
	s := open(t, Config{MaxSeries: 1000})
	now := time.Now().Truncate(time.Second)
	if err := s.Insert("a", map[string]string{"pod": "a"}, now, []byte("# TYPE x gauge\nx{k=\"1\"} 3\nx{k=\"2\"} 4\n")); err != nil {
		t.Fatal(err)
	}
	list := []metrics.Recording{{Name: "bad", Query: "sum("}, {Name: "pod:x:sum", Query: "sum(x) by (pod)"}}
	if err := s.Record(t.Context(), now, list); !errors.Is(err, ErrBad) {
		t.Errorf("Record: %v", err)
	}
	expect(t, s, `pod:x:sum{pod="a"}`, now, 7)
	s.Forget("a", now.Add(time.Second))
	if err := s.Record(t.Context(), now.Add(2*time.Second), list[1:]); err != nil {
		t.Error(err)
	}
	if v, err := s.Instant(t.Context(), "pod:x:sum", now.Add(2*time.Second)); err != nil || len(v) != 0 {
		t.Errorf("what is gone is %v, %v", v, err)
	}
	// As many as there is room for.
	var page bytes.Buffer
	page.WriteString("# TYPE y gauge\n")
	for i := range 600 {
		fmt.Fprintf(&page, "y{i=\"%d\"} 1\n", i)
	}
	later := now.Add(3 * time.Second)
	if err := s.Insert("b", map[string]string{"pod": "b"}, later, page.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := s.Record(t.Context(), later, []metrics.Recording{{Name: "y:double", Query: "y * 2"}}); err != nil {
		t.Error(err)
	}
	if n, dropped, _ := s.Size(); n != 1000 || dropped == 0 {
		t.Errorf("%d series, %d dropped", n, dropped)
	}
}
