package transcript_test

import (
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/tunmesh/tunmesh/internal/transcript"
)

// Who reads while others write sees whole writes, and in the end all of them.
func TestWritersAndReader(t *testing.T) {
	var said transcript.Transcript
	var wg sync.WaitGroup
	const writers, times, word = 4, 100, "word\n"
	for range writers {
		wg.Go(func() {
			for range times {
				if n, err := io.WriteString(&said, word); n != len(word) || err != nil {
					t.Errorf("%d, %v", n, err)
				}
			}
		})
	}
	for range times {
		if s := said.String(); s != strings.Repeat(word, len(s)/len(word)) {
			t.Fatalf("half a word: %q", s)
		}
	}
	wg.Wait()
	if got := said.String(); got != strings.Repeat(word, writers*times) {
		t.Errorf("%d bytes, want %d words", len(got), writers*times)
	}
}
