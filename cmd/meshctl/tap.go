package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/api/tap"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/render"
)

type tapFlags struct {
	to, toNamespace, output, labels string
	match                           tap.Match
	maxRPS                          float32
	pcap                            string
	snap                            uint32
}

func (a *app) tapCommand() *cobra.Command {
	var f tapFlags
	c := &cobra.Command{
		Use:   "tap TYPE[/NAME]…",
		Short: "Watch requests as they pass, until interrupted",
		Long: `Prints a line at each request (req), response (rsp) and end of a response (end)
that the sidecars of a resource see. Nobody needs to be restarted for it, and a
tap that nobody watches costs nothing. A reader too slow for the traffic loses
events, and is told how many.

With --pcap it writes a pod's packets for Wireshark or tshark: interface "app" has
what the app sends and gets, decrypted, "wire" what is on the network. That needs
a right of its own (watch of pods/pcap), and an event at the pod tells of it.`,
		Example: `  meshctl tap deploy/web -n emojivoto
  meshctl tap deploy/web -n emojivoto --to svc/voting-svc --path /emojivoto.v1.VotingService/VoteDoughnut
  meshctl tap po web-1 web-2 -n emojivoto -o jsonpath='{.requestInitEvent.path}'
  meshctl tap po/web-5d8c9 -n emojivoto --pcap - | tshark -r - -Y grpc
  meshctl tap ns/emojivoto -o json | jq .requestInitEvent.path`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeKinds(everyKind, "authority"),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := a.asked(cmd)
			if err != nil {
				return err
			}
			if f.pcap != "" {
				return a.capture(cmd, &f, at, args)
			}
			show, err := f.show()
			if err != nil {
				return err
			}
			reqs, err := f.requests(args, at.namespace)
			if err != nil {
				return err
			}
			q, done, err := at.connect()
			if err != nil {
				return err
			}
			defer done()
			return taps(cmd.Context(), q, reqs, func(m *query.TapMessage) error {
				if n := m.GetLost(); n > 0 {
					fmt.Fprintf(cmd.ErrOrStderr(), "%d events were not shown: more than --max-rps, or this reader is too slow\n", n)
				}
				if e := m.GetEvent(); e != nil {
					return show(cmd.OutOrStdout(), e) // an error: the reader went away
				}
				return nil
			})
		},
	}
	f.register(c)
	c.Flags().StringVar(&f.pcap, "pcap", "", "write the packets of one pod to this file (-: to standard output) instead, as pcapng")
	c.Flags().Uint32Var(&f.snap, "snap-length", 0, "bytes of each packet that --pcap keeps (0: all)")
	c.Flags().StringVarP(&f.output, "output", "o", "", "wide: labels too; json: one document a line, with headers; jsonpath=…: parts of it")
	return c
}

// register adds the flags that say which requests are meant.
func (f *tapFlags) register(c *cobra.Command) {
	fl := c.Flags()
	fl.StringVarP(&f.labels, "selector", "l", "", "label selector, as kubectl's")
	fl.StringVar(&f.to, "to", "", "only requests to this resource (TYPE or TYPE/NAME)")
	fl.StringVar(&f.toNamespace, "to-namespace", "", "namespace of --to (default: of the resource)")
	fl.Float32Var(&f.maxRPS, "max-rps", 100, "at most so many requests per second")
	fl.StringVar(&f.match.Scheme, "scheme", "", "only requests with this scheme")
	fl.StringVar(&f.match.Method, "method", "", "only requests with this method")
	fl.StringVar(&f.match.Authority, "authority", "", "only requests with this :authority")
	fl.StringVar(&f.match.PathPrefix, "path", "", "only requests whose path begins so")
	completeKindsOf(c, "to", everyKind, "authority")
}

// show is how an event is printed.
func (f *tapFlags) show() (func(io.Writer, *tap.Event) error, error) {
	if text, ok := strings.CutPrefix(f.output, "jsonpath="); ok {
		t, err := render.NewTapPath(text)
		if err != nil {
			return nil, usage("--output: %w", err)
		}
		return t.Print, nil
	}
	switch f.output {
	case "json":
		return render.TapJSON, nil
	case "", "wide":
		return func(w io.Writer, e *tap.Event) error {
			_, err := fmt.Fprintln(w, render.TapLine(e, f.output == "wide"))
			return err
		}, nil
	}
	return nil, usage("--output %q: want wide, json or jsonpath=TEMPLATE", f.output)
}

// requests are one for each resource that is named.
func (f *tapFlags) requests(args []string, namespace string) ([]*query.TapRequest, error) {
	if f.maxRPS < 1 || f.maxRPS > maxRPS {
		return nil, usage("--max-rps %v: want 1 to %d", f.maxRPS, maxRPS)
	}
	if f.match.PathPrefix != "" && !strings.HasPrefix(f.match.PathPrefix, "/") {
		return nil, usage("--path %q: a path begins with /", f.match.PathPrefix)
	}
	sels, err := parseResources(args, namespace, false, f.labels)
	if err != nil {
		return nil, err
	}
	if len(sels) > maxTaps {
		return nil, usage("%d resources: want at most %d; a label selector names more at once", len(sels), maxTaps)
	}
	to, err := parseOne("to", f.to, orElse(f.toNamespace, namespace))
	if err != nil {
		return nil, err
	}
	headers := f.output == "json" || strings.HasPrefix(f.output, "jsonpath=")
	var reqs []*query.TapRequest
	for _, s := range sels {
		if s.GetKind() == "authority" {
			return nil, usage("an authority has no sidecar: use --authority")
		}
		reqs = append(reqs, &query.TapRequest{Resource: s, To: to, Match: proto.CloneOf(&f.match), MaxRps: uint32(f.maxRPS), Headers: headers})
	}
	return reqs, nil
}

const (
	// maxTaps bounds the streams of one command.
	maxTaps = 32
	// maxRPS is what a mesh shows at most.
	maxRPS = 10000
)

// taps calls use for each message of several taps, one at a time, until ctx or
// one of them ends.
func taps(ctx context.Context, q query.QueryClient, reqs []*query.TapRequest, use func(*query.TapMessage) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	messages := make(chan *query.TapMessage) // a slow reader makes the mesh lose events, and say so
	failed := make(chan error, len(reqs))    // each sends once
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, req := range reqs {
		wg.Go(func() { failed <- oneTap(ctx, q, req, messages) })
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-messages:
			if err := use(m); err != nil {
				return err
			}
		case err := <-failed:
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

func oneTap(ctx context.Context, q query.QueryClient, req *query.TapRequest, to chan<- *query.TapMessage) error {
	stream, err := q.Tap(ctx, req)
	if err != nil {
		return apiError(err)
	}
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return apiError(err)
		}
		select {
		case to <- m:
		case <-ctx.Done():
			return nil
		}
	}
}

// apiError is the query API's error as a person reads it.
func apiError(err error) error {
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	switch s.Code() {
	case codes.Unavailable:
		return fmt.Errorf("the mesh does not answer: %s", s.Message())
	case codes.DeadlineExceeded:
		return errors.New("the mesh did not answer in time")
	}
	return errors.New(s.Message())
}
