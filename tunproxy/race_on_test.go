//go:build race

package tunproxy_test

// raced: the race detector makes everything ten times slower.
const raced = true
