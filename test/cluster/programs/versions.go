package programs

import (
	"fmt"
	"strconv"
	"strings"
)

// Kubernetes names the releases that a cluster can be built from: the last
// patch release of each minor version that the module proxy has whole. The
// first is the default: the newest that the Go of this project builds.
func Kubernetes() []string { return []string{"1.36.4", "1.35.4", "1.34.4", "1.33.13", "1.32.6"} }

// Versions of what stands beside Kubernetes. They come from the module proxy
// as they are, so that go.sum's database vouches for them.
const (
	containerdVersion = "v2.4.2"
	runcVersion       = "v1.5.2"
)

// Release finds the release that a version means: "" is the default, 1.34 and
// v1.34 are the last of that minor version, 1.34.2 is itself.
func Release(version string) (string, error) {
	v := strings.TrimPrefix(version, "v")
	all := Kubernetes()
	if v == "" {
		return all[0], nil
	}
	parts := strings.Split(v, ".")
	for _, p := range parts {
		if _, err := strconv.ParseUint(p, 10, 16); err != nil {
			return "", fmt.Errorf("%q is not a version of Kubernetes: say it as 1.34 or 1.34.2", version)
		}
	}
	if len(parts) != 2 && len(parts) != 3 || parts[0] != "1" {
		return "", fmt.Errorf("%q is not a version of Kubernetes: say it as 1.34 or 1.34.2", version)
	}
	for _, r := range all {
		if strings.HasPrefix(r, "1."+parts[1]+".") {
			if len(parts) == 2 {
				return r, nil
			}
			return v, nil
		}
	}
	return "", fmt.Errorf("kubernetes %s is not supported: the range is %s to %s", version, Minor(all[len(all)-1]), Minor(all[0]))
}

// Minor is a release's minor version, such as 1.34.
func Minor(release string) string {
	return release[:strings.LastIndexByte(release, '.')]
}

// AtLeast says whether a release is of the minor version 1.n or a later one.
func AtLeast(release string, n int) bool {
	got, err := strconv.Atoi(strings.Split(release, ".")[1])
	return err == nil && got >= n
}
