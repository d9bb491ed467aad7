package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
)

func botCommand() *cobra.Command {
	var addr string
	b := &bot{}
	c := &cobra.Command{
		Use: "vote-bot", Short: "Vote without rest (HTTP/1.1)", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if b.rps <= 0 || b.rps > 10000 {
				return fmt.Errorf("--rps %v: want more than 0 and at most 10000", b.rps)
			}
			if u, err := url.Parse(b.web); err != nil || u.Host == "" {
				return fmt.Errorf("--web %q: want a URL such as http://web-svc.emojivoto", b.web)
			}
			b.log = slog.New(slog.NewTextHandler(os.Stderr, nil))
			return b.serveAndRun(cmd.Context(), addr)
		},
	}
	c.Flags().StringVar(&b.web, "web", "http://web-svc.emojivoto", "URL of the web service")
	c.Flags().StringVar(&addr, "listen", ":8080", "address to tell at how many votes were cast")
	c.Flags().Float64Var(&b.rps, "rps", 10, "requests per second")
	return c
}

// botPause is how long the bot rests after an error.
const botPause = 500 * time.Millisecond

// bot asks for the list, votes, and looks at the leaderboard in turn, at a
// steady rate, one request at a time. It tells how many votes it has cast.
type bot struct {
	web  string
	rps  float64
	log  *slog.Logger
	cast atomic.Int64
}

// castAnswer is what the bot tells.
type castAnswer struct {
	Cast int64 `json:"cast"`
}

// serveAndRun votes and answers at addr until ctx ends.
func (b *bot) serveAndRun(ctx context.Context, addr string) error {
	m := http.NewServeMux()
	m.HandleFunc("GET /votes", b.tell)
	s := &http.Server{Addr: addr, Handler: m, ReadHeaderTimeout: callWithin}
	defer context.AfterFunc(ctx, func() { _ = s.Close() })()
	voted := make(chan struct{})
	go func() { defer close(voted); b.run(ctx) }()
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve at %s: %w", addr, err)
	}
	<-voted
	return nil
}

func (b *bot) tell(w http.ResponseWriter, _ *http.Request) {
	answer(w, castAnswer{Cast: b.cast.Load()})
}

func (b *bot) run(ctx context.Context) {
	client := &http.Client{Timeout: callWithin}
	t := time.NewTicker(time.Duration(float64(time.Second) / b.rps))
	defer t.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		path := "/api/list"
		switch i % 3 {
		case 1:
			path = "/api/vote?choice=" + url.QueryEscape(b.choice())
			b.cast.Add(1)
		case 2:
			path = "/api/leaderboard"
		}
		if err := get(ctx, client, b.web+path); err != nil && ctx.Err() == nil {
			b.log.Warn("request failed", "path", path, "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(botPause):
			}
		}
	}
}

// choice prefers the doughnut a little, as people do.
func (b *bot) choice() string {
	if rand.Float64() < 0.15 {
		return ":doughnut:"
	}
	all := emojis()
	return all[rand.IntN(len(all))].GetShortcode()
}

func get(ctx context.Context, c *http.Client, u string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	return nil
}
