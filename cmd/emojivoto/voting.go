package main

import (
	"context"
	"math/rand/v2"
	"sort"
	"sync"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tunmesh/tunmesh/cmd/emojivoto/internal/votepb/voting"
)

func votingCommand() *cobra.Command {
	var (
		addr string
		rate float64
	)
	c := &cobra.Command{
		Use: "voting", Short: "Count votes (gRPC); votes for :doughnut: fail sometimes", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serveGRPC(cmd.Context(), addr, func(s *grpc.Server) {
				voting.RegisterVotingServiceServer(s, newVotingServer(rate))
			})
		},
	}
	c.Flags().StringVar(&addr, "listen", ":8080", "address to listen at")
	c.Flags().Float64Var(&rate, "failure-rate", 0.5, "share of :doughnut: votes that fail, 0 to 1")
	return c
}

type votingServer struct {
	voting.UnimplementedVotingServiceServer
	failureRate float64

	mu    sync.Mutex
	votes map[string]int64
}

func newVotingServer(failureRate float64) *votingServer {
	return &votingServer{failureRate: failureRate, votes: map[string]int64{}}
}

func (v *votingServer) vote(shortcode string) (*voting.VoteResponse, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.votes[shortcode]++
	return &voting.VoteResponse{}, nil
}

func (v *votingServer) VoteTaco(context.Context, *voting.VoteRequest) (*voting.VoteResponse, error) {
	return v.vote(":taco:")
}

func (v *votingServer) VoteRocket(context.Context, *voting.VoteRequest) (*voting.VoteResponse, error) {
	return v.vote(":rocket:")
}

func (v *votingServer) VoteCat(context.Context, *voting.VoteRequest) (*voting.VoteResponse, error) {
	return v.vote(":cat:")
}

func (v *votingServer) VoteSunflower(context.Context, *voting.VoteRequest) (*voting.VoteResponse, error) {
	return v.vote(":sunflower:")
}

func (v *votingServer) VoteGuitar(context.Context, *voting.VoteRequest) (*voting.VoteResponse, error) {
	return v.vote(":guitar:")
}

func (v *votingServer) VoteOwl(context.Context, *voting.VoteRequest) (*voting.VoteResponse, error) {
	return v.vote(":owl:")
}

func (v *votingServer) VoteWave(context.Context, *voting.VoteRequest) (*voting.VoteResponse, error) {
	return v.vote(":wave:")
}

func (v *votingServer) VoteDoughnut(context.Context, *voting.VoteRequest) (*voting.VoteResponse, error) {
	if rand.Float64() < v.failureRate {
		return nil, status.Error(codes.Unknown, "the doughnut is gone")
	}
	return v.vote(":doughnut:")
}

func (v *votingServer) Results(context.Context, *voting.ResultsRequest) (*voting.ResultsResponse, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	r := &voting.ResultsResponse{}
	for code, n := range v.votes {
		r.Results = append(r.Results, &voting.Result{Shortcode: code, Votes: n})
	}
	sort.Slice(r.Results, func(i, j int) bool {
		a, b := r.Results[i], r.Results[j]
		if a.GetVotes() != b.GetVotes() {
			return a.GetVotes() > b.GetVotes()
		}
		return a.GetShortcode() < b.GetShortcode()
	})
	return r, nil
}
