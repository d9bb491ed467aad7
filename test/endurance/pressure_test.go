package endurance_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// pressure tells, when a run is over, for which part of it something on the
// machine waited for a CPU. On a machine with other work to do sidecars that get
// no CPU for seconds are given up by their peers, and that is no fault of theirs.
func pressure(t *testing.T) (tell func()) {
	t.Helper()
	waited := func() (us int64) {
		raw, _ := os.ReadFile("/proc/pressure/cpu") // a kernel without it tells nothing
		for line := range strings.Lines(string(raw)) {
			if i := strings.Index(line, "total="); strings.HasPrefix(line, "some") && i > 0 {
				_, _ = fmt.Sscan(line[i+len("total="):], &us)
			}
		}
		return us
	}
	start, before := time.Now(), waited()
	return func() {
		if now := waited(); now > before {
			t.Logf("%.0f%% of the time something waited for a CPU", float64(now-before)/float64(time.Since(start).Microseconds())*100)
		}
	}
}
