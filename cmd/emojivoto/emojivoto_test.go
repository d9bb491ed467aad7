package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/tunmesh/tunmesh/cmd/emojivoto/internal/votepb/emoji"
	"github.com/tunmesh/tunmesh/cmd/emojivoto/internal/votepb/voting"
)

// app runs all three servers in process and returns the web server's URL.
func app(t *testing.T, failureRate float64, bot string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	emoji.RegisterEmojiServiceServer(s, emojiServer{})
	voting.RegisterVotingServiceServer(s, newVotingServer(failureRate))
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	c, err := dialGRPC(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	web := httptest.NewServer(newWeb(emoji.NewEmojiServiceClient(c), voting.NewVotingServiceClient(c), bot))
	t.Cleanup(web.Close)
	return web.URL
}

func fetch(t *testing.T, u string) (int, []row) {
	t.Helper()
	resp, err := http.Get(u)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var rows []row
	if resp.StatusCode == http.StatusOK {
		_ = json.NewDecoder(resp.Body).Decode(&rows)
	}
	return resp.StatusCode, rows
}

func TestEveryEmojiCanBeVotedFor(t *testing.T) {
	web := app(t, 0, "")
	_, all := fetch(t, web+"/api/list")
	if len(all) != len(emojis()) {
		t.Fatalf("%d emojis listed, want %d", len(all), len(emojis()))
	}
	for i, e := range all {
		for range i + 1 {
			if code, _ := fetch(t, web+"/api/vote?choice="+url.QueryEscape(e.Shortcode)); code != 200 {
				t.Errorf("vote for %s: %d", e.Shortcode, code)
			}
		}
	}
	for i, e := range leaderboard(t, web).Rows {
		if e.Votes != int64(i+1) {
			t.Errorf("%s has %d votes, want %d", e.Shortcode, e.Votes, i+1)
		}
	}
	if code, _ := fetch(t, web+"/"); code != 200 {
		t.Errorf("page: %d", code)
	}
}

func TestOnlyTheDoughnutFails(t *testing.T) {
	web := app(t, 1, "")
	for _, e := range emojis() {
		want := 200
		if e.GetShortcode() == ":doughnut:" {
			want = 500
		}
		if code, _ := fetch(t, web+"/api/vote?choice="+url.QueryEscape(e.GetShortcode())); code != want {
			t.Errorf("vote for %s: %d, want %d", e.GetShortcode(), code, want)
		}
	}
	if code, _ := fetch(t, web+"/api/vote?choice=nothing"); code != 404 {
		t.Errorf("vote for nothing: %d, want 404", code)
	}
}

func leaderboard(t *testing.T, web string) board {
	t.Helper()
	resp, err := http.Get(web + "/api/leaderboard")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var b board
	if err := json.NewDecoder(resp.Body).Decode(&b); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBotVotesAndTells(t *testing.T) {
	b := &bot{rps: 1000}
	tells := httptest.NewServer(http.HandlerFunc(b.tell))
	t.Cleanup(tells.Close)
	web := app(t, 0, tells.URL)
	b.web = web
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); b.run(ctx) }()
	for {
		var sum int64
		for _, e := range leaderboard(t, web).Rows {
			sum += e.Votes
		}
		if sum >= 20 {
			break
		}
	}
	cancel()
	<-done
	if got := leaderboard(t, web).Bot; got == nil || *got < 20 {
		t.Errorf("the page says that the bot cast %v votes, want at least 20", got)
	}
}

// seen is a voting service that keeps what calls carry of a trace.
type seen struct {
	*votingServer
	trace chan string
}

func (s seen) VoteTaco(ctx context.Context, r *voting.VoteRequest) (*voting.VoteResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	s.trace <- strings.Join(append(md.Get("traceparent"), md.Get("x-b3-traceid")...), " ")
	return s.votingServer.VoteTaco(ctx, r)
}

func TestWebCarriesTheTraceOn(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	v := seen{newVotingServer(0), make(chan string, 1)}
	emoji.RegisterEmojiServiceServer(s, emojiServer{})
	voting.RegisterVotingServiceServer(s, v)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	c, err := dialGRPC(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, "/api/vote?choice=:taco:", nil)
	r.Header.Set("Traceparent", "one")
	r.Header.Set("X-B3-TraceId", "two")
	w := httptest.NewRecorder()
	newWeb(emoji.NewEmojiServiceClient(c), voting.NewVotingServiceClient(c), "").ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	if got := <-v.trace; got != "one two" {
		t.Errorf("the call carries %q", got)
	}
}
