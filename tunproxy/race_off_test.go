//go:build !race

package tunproxy_test

const raced = false
