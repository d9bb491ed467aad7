// Package deploy embeds what meshctl installs or shows: the chart, and manifests
// of the sample application. It owns files, and refuses to know what is done with
// them.
package deploy

import (
	"embed"
	"io/fs"
)

//go:embed sample/emojivoto.yaml
var emojivoto []byte

//go:embed all:chart
var chart embed.FS

// Emojivoto is the sample application's manifest, plain Kubernetes YAML.
func Emojivoto() []byte { return append([]byte(nil), emojivoto...) }

// Chart is the Helm chart's folder.
func Chart() fs.FS {
	sub, err := fs.Sub(chart, "chart")
	if err != nil {
		panic(err) // the name is a constant
	}
	return sub
}
