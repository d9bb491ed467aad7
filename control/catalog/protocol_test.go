package catalog_test

import (
	"testing"

	"github.com/tunmesh/tunmesh/control/catalog"
)

func TestParsePortSet(t *testing.T) {
	s, err := catalog.ParsePortSet(" 25, 4000-4010,4011 ,587,4005-4006")
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Ranges) != 3 {
		t.Errorf("ranges %v, want 3: those that touch joined", s.Ranges)
	}
	for port, want := range map[uint16]bool{25: true, 26: false, 3999: false, 4000: true, 4011: true, 4012: false, 587: true, 65535: false} {
		if s.Has(port) != want {
			t.Errorf("has %d: %v", port, !want)
		}
	}
	for _, bad := range []string{"0", "65536", "a", "1,,2", "5-4", "1-", "-1", "1-2-3", "+1"} {
		if s, err := catalog.ParsePortSet(bad); err == nil {
			t.Errorf("%q was accepted as %v", bad, s.Ranges)
		}
	}
}

func FuzzParsePortSet(f *testing.F) {
	f.Add("25,587,4000-4010", uint16(25))
	f.Add("65535,1-2", uint16(65535))
	f.Fuzz(func(t *testing.T, s string, port uint16) {
		set, err := catalog.ParsePortSet(s)
		if err != nil {
			return
		}
		n := 0
		for i, r := range set.Ranges {
			if r.First == 0 || r.Last < r.First || i > 0 && int(r.First) <= int(set.Ranges[i-1].Last)+1 {
				t.Fatalf("%q: ranges %v", s, set.Ranges)
			}
			if port >= r.First && port <= r.Last {
				n++
			}
		}
		if set.Has(port) != (n == 1) {
			t.Fatalf("%q: has %d: %v", s, port, set.Has(port))
		}
	})
}
