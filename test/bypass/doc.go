// Package bypass holds the tests of what docs/security.md claims: every way round
// the sidecar that we know of, tried from an app that is root with every
// capability of its pod's user namespace while the node's side is captured; what
// the sidecars may do; and what the wire shows. It knows the programs only from
// outside.
package bypass
