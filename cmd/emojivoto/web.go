package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net/http"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tunmesh/tunmesh/cmd/emojivoto/internal/votepb/emoji"
	"github.com/tunmesh/tunmesh/cmd/emojivoto/internal/votepb/voting"
)

//go:embed page.html
var page string

func webCommand() *cobra.Command {
	var addr, emojiAddr, votingAddr, bot string
	c := &cobra.Command{
		Use: "web", Short: "Serve the page and its API (HTTP/1.1)", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runWeb(cmd.Context(), addr, emojiAddr, votingAddr, bot)
		},
	}
	f := c.Flags()
	f.StringVar(&addr, "listen", ":8080", "address to listen at")
	f.StringVar(&emojiAddr, "emoji", "emoji-svc.emojivoto:8080", "address of the emoji service")
	f.StringVar(&votingAddr, "voting", "voting-svc.emojivoto:8080", "address of the voting service")
	f.StringVar(&bot, "bot", "", "URL of the vote bot, to show how busy it is")
	return c
}

func runWeb(ctx context.Context, addr, emojiAddr, votingAddr, bot string) error {
	e, err := dialGRPC(emojiAddr)
	if err != nil {
		return err
	}
	defer e.Close()
	v, err := dialGRPC(votingAddr)
	if err != nil {
		return err
	}
	defer v.Close()
	s := &http.Server{
		Addr:              addr,
		Handler:           newWeb(emoji.NewEmojiServiceClient(e), voting.NewVotingServiceClient(v), bot),
		ReadHeaderTimeout: callWithin,
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		c, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainWithin)
		defer cancel()
		_ = s.Shutdown(c)
	})
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		stop()
		return fmt.Errorf("serve at %s: %w", addr, err)
	}
	<-done
	return nil
}

type web struct {
	emoji  emoji.EmojiServiceClient
	voting voting.VotingServiceClient
	page   *template.Template
	bot    string // URL, "" for none
	client *http.Client
}

func newWeb(e emoji.EmojiServiceClient, v voting.VotingServiceClient, bot string) http.Handler {
	w := &web{emoji: e, voting: v, page: template.Must(template.New("page").Parse(page)), bot: bot, client: &http.Client{Timeout: callWithin}}
	m := http.NewServeMux()
	m.HandleFunc("GET /{$}", w.index)
	m.HandleFunc("GET /api/list", w.list)
	m.HandleFunc("GET /api/vote", w.vote)
	m.HandleFunc("POST /api/vote", w.vote)
	m.HandleFunc("GET /api/leaderboard", w.leaderboard)
	m.HandleFunc("GET /healthz", func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprintln(rw, "ok") })
	return propagated(m)
}

type row struct {
	Shortcode string `json:"shortcode"`
	Unicode   string `json:"unicode"`
	Votes     int64  `json:"votes"`
}

func (w *web) index(rw http.ResponseWriter, r *http.Request) {
	rows, err := w.rows(r.Context())
	if err != nil {
		fail(rw, err)
		return
	}
	rw.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = w.page.Execute(rw, board{Rows: rows, Bot: w.botVotes(r.Context())})
}

func (w *web) list(rw http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), callWithin)
	defer cancel()
	all, err := w.emoji.ListAll(ctx, &emoji.ListAllRequest{})
	if err != nil {
		fail(rw, err)
		return
	}
	rows := []row{}
	for _, e := range all.GetList() {
		rows = append(rows, row{Shortcode: e.GetShortcode(), Unicode: e.GetUnicode()})
	}
	answer(rw, rows)
}

func (w *web) leaderboard(rw http.ResponseWriter, r *http.Request) {
	rows, err := w.rows(r.Context())
	if err != nil {
		fail(rw, err)
		return
	}
	answer(rw, board{Rows: rows, Bot: w.botVotes(r.Context())})
}

// board is the leaderboard: all emojis, and how many votes were the bot's.
type board struct {
	Rows []row  `json:"rows"`
	Bot  *int64 `json:"bot"` // null when nobody knows
}

// botVotes asks the vote bot; the page does without when it does not answer.
func (w *web) botVotes(ctx context.Context) *int64 {
	if w.bot == "" {
		return nil
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, w.bot+"/votes", nil)
	if err != nil {
		return nil
	}
	resp, err := w.client.Do(r)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	var a castAnswer
	if resp.StatusCode != http.StatusOK || json.NewDecoder(resp.Body).Decode(&a) != nil {
		return nil
	}
	return &a.Cast
}

// rows joins all emojis with their votes.
func (w *web) rows(ctx context.Context) ([]row, error) {
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	all, err := w.emoji.ListAll(ctx, &emoji.ListAllRequest{})
	if err != nil {
		return nil, err
	}
	res, err := w.voting.Results(ctx, &voting.ResultsRequest{})
	if err != nil {
		return nil, err
	}
	votes := map[string]int64{}
	for _, r := range res.GetResults() {
		votes[r.GetShortcode()] = r.GetVotes()
	}
	rows := []row{}
	for _, e := range all.GetList() {
		rows = append(rows, row{Shortcode: e.GetShortcode(), Unicode: e.GetUnicode(), Votes: votes[e.GetShortcode()]})
	}
	return rows, nil
}

func (w *web) vote(rw http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), callWithin)
	defer cancel()
	choice := r.FormValue("choice")
	e, err := w.emoji.FindByShortcode(ctx, &emoji.FindByShortcodeRequest{Shortcode: choice})
	if err != nil {
		fail(rw, err)
		return
	}
	cast := map[string]func() (*voting.VoteResponse, error){
		":taco:":      func() (*voting.VoteResponse, error) { return w.voting.VoteTaco(ctx, &voting.VoteRequest{}) },
		":rocket:":    func() (*voting.VoteResponse, error) { return w.voting.VoteRocket(ctx, &voting.VoteRequest{}) },
		":cat:":       func() (*voting.VoteResponse, error) { return w.voting.VoteCat(ctx, &voting.VoteRequest{}) },
		":sunflower:": func() (*voting.VoteResponse, error) { return w.voting.VoteSunflower(ctx, &voting.VoteRequest{}) },
		":guitar:":    func() (*voting.VoteResponse, error) { return w.voting.VoteGuitar(ctx, &voting.VoteRequest{}) },
		":owl:":       func() (*voting.VoteResponse, error) { return w.voting.VoteOwl(ctx, &voting.VoteRequest{}) },
		":wave:":      func() (*voting.VoteResponse, error) { return w.voting.VoteWave(ctx, &voting.VoteRequest{}) },
		":doughnut:":  func() (*voting.VoteResponse, error) { return w.voting.VoteDoughnut(ctx, &voting.VoteRequest{}) },
	}[e.GetShortcode()]
	if cast == nil {
		fail(rw, notFound(choice))
		return
	}
	if _, err := cast(); err != nil {
		fail(rw, err)
		return
	}
	if r.Method == http.MethodPost {
		http.Redirect(rw, r, "/", http.StatusSeeOther)
		return
	}
	answer(rw, row{Shortcode: e.GetShortcode(), Unicode: e.GetUnicode()})
}

func answer(rw http.ResponseWriter, v any) {
	rw.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(rw).Encode(v)
}

func fail(rw http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	if status.Code(err) == codes.NotFound {
		code = http.StatusNotFound
	}
	http.Error(rw, err.Error(), code)
}
