package broker

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// An app that asks in a loop must not fill the node's disk.
func TestRefusalsAreLoggedOnceASecond(t *testing.T) {
	var out bytes.Buffer
	p := newPod(AttachRequest{Sandbox: "s"}, nil, &Broker{cfg: Config{Log: slog.New(slog.NewTextHandler(&out, nil))}})
	defer p.cancel()
	for range 1000 {
		p.logRefusal(errors.New("no"))
	}
	if n := strings.Count(out.String(), "\n"); n < 1 || n > 3 {
		t.Errorf("%d lines of a thousand refusals", n)
	}
	p.refusedAt = time.Now().Add(-2 * time.Second)
	out.Reset()
	p.logRefusal(errors.New("no"))
	if s := out.String(); !strings.Contains(s, "more_unsaid=9") {
		t.Errorf("the next line does not count what was left out: %s", s)
	}
}
