// Package commit tells what the programs that make images and releases need to know
// of the checkout that they run in. It refuses to know what is made.
package commit

import (
	"context"
	"os/exec"
	"strings"
	"time"
)

// Time is when the commit was made, so that making something of it again gives the
// same bytes; 1970 where there is no checkout.
func Time(ctx context.Context) (time.Time, error) {
	out, err := exec.CommandContext(ctx, "git", "log", "-1", "--format=%cI").Output()
	if err != nil {
		return time.Unix(0, 0).UTC(), nil //nolint:nilerr // not a checkout
	}
	return time.Parse(time.RFC3339, strings.TrimSpace(string(out)))
}
