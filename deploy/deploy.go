// Package deploy embeds what meshctl installs or shows: manifests of the sample
// application. It owns files, and refuses to know what is done with them.
package deploy

import _ "embed"

//go:embed sample/emojivoto.yaml
var emojivoto []byte

// Emojivoto is the sample application's manifest, plain Kubernetes YAML.
func Emojivoto() []byte { return append([]byte(nil), emojivoto...) }
