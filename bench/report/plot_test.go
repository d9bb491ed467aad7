package report

import (
	"image/color"
	"testing"
)

// All peers of a full run can be told apart.
func TestPeersHaveColors(t *testing.T) {
	seen := map[color.Color]int{}
	for i := range 8 {
		c := peerColor(i)
		if other, ok := seen[c]; ok {
			t.Errorf("peers %d and %d are both %v", other, i, c)
		}
		seen[c] = i
	}
}
