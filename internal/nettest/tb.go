package nettest

// TB is what this package needs of a test. A *testing.T has it; a program that
// measures brings its own.
type TB interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Skip(args ...any)
	Skipf(format string, args ...any)
	Cleanup(f func())
	TempDir() string
}
