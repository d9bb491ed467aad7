package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// answerWithin bounds an answer, and the reading of a question.
const answerWithin = 5 * time.Second

// check is a condition of being ready; its error says what is missing.
type check struct {
	name string
	ok   func(ctx context.Context) error
}

// admin serves the kubelet's probes.
type admin struct{ checks []check }

func (a *admin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	switch r.URL.Path {
	case "/live":
		fmt.Fprintln(w, "ok")
	case "/ready":
		a.ready(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (a *admin) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), answerWithin)
	defer cancel()
	text := ""
	for _, c := range a.checks {
		if err := c.ok(ctx); err != nil {
			text += fmt.Sprintf("%s: %v\n", c.name, err)
		}
	}
	if text != "" {
		w.WriteHeader(http.StatusServiceUnavailable)
	} else {
		text = "ok\n"
	}
	fmt.Fprint(w, text)
}

// run serves at addr until ctx ends.
func (a *admin) run(ctx context.Context, l net.Listener) error {
	s := &http.Server{Handler: a, ReadHeaderTimeout: answerWithin, ReadTimeout: answerWithin, WriteTimeout: 2 * answerWithin, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve probes at %s: %w", l.Addr(), err)
	}
	return nil
}
