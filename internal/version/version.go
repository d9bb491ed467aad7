// Package version is the release that a binary was built as.
package version

import "runtime/debug"

// number is set by the linker (-X), from git; "" in plain builds.
var number string //nolint:gochecknoglobals // the linker can set nothing else

// String is the release, or the revision in builds outside the Makefile.
func String() string {
	if number != "" {
		return number
	}
	if bi, ok := debug.ReadBuildInfo(); ok && bi.Main.Version != "" {
		return bi.Main.Version
	}
	return "(devel)"
}
