//go:build race

package netstack_test

// raceDetector says that everything is ten times slower.
const raceDetector = true
