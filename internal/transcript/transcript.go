// Package transcript keeps what a program says for tests that read it while it still
// speaks. It knows nothing of what is said.
package transcript

import (
	"bytes"
	"sync"
)

// Transcript is an io.Writer for several writers, and their text so far for who asks.
// The zero value is empty.
type Transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer. It never fails.
func (t *Transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.Write(p)
}

// String is all that was written until now.
func (t *Transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.String()
}
