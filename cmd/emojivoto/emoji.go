package main

import (
	"context"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/tunmesh/tunmesh/cmd/emojivoto/internal/votepb/emoji"
)

// emojis that can be voted for, in the order the page shows them.
func emojis() []*emoji.Emoji {
	return []*emoji.Emoji{
		{Shortcode: ":taco:", Unicode: "🌮"},
		{Shortcode: ":rocket:", Unicode: "🚀"},
		{Shortcode: ":cat:", Unicode: "🐱"},
		{Shortcode: ":sunflower:", Unicode: "🌻"},
		{Shortcode: ":guitar:", Unicode: "🎸"},
		{Shortcode: ":owl:", Unicode: "🦉"},
		{Shortcode: ":wave:", Unicode: "🌊"},
		{Shortcode: ":doughnut:", Unicode: "🍩"},
	}
}

func emojiCommand() *cobra.Command {
	var addr string
	c := &cobra.Command{
		Use: "emoji", Short: "Serve the list of emojis (gRPC)", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serveGRPC(cmd.Context(), addr, func(s *grpc.Server) {
				emoji.RegisterEmojiServiceServer(s, emojiServer{})
			})
		},
	}
	c.Flags().StringVar(&addr, "listen", ":8080", "address to listen at")
	return c
}

type emojiServer struct {
	emoji.UnimplementedEmojiServiceServer
}

func (emojiServer) ListAll(context.Context, *emoji.ListAllRequest) (*emoji.ListAllResponse, error) {
	return &emoji.ListAllResponse{List: emojis()}, nil
}

func (emojiServer) FindByShortcode(_ context.Context, r *emoji.FindByShortcodeRequest) (*emoji.Emoji, error) {
	for _, e := range emojis() {
		if e.GetShortcode() == r.GetShortcode() {
			return e, nil
		}
	}
	return nil, notFound(r.GetShortcode())
}
