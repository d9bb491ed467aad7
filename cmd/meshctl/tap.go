package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/api/tap"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/render"
)

type tapFlags struct {
	to, toNamespace, output, labels string
	match                           tap.Match
	maxRPS                          float32
}

func (a *app) tapCommand() *cobra.Command {
	var f tapFlags
	c := &cobra.Command{
		Use:   "tap TYPE[/NAME]",
		Short: "Watch requests as they pass, until interrupted",
		Long: `Prints a line at each request (req), response (rsp) and end of a response (end)
that the sidecars of a resource see. Nobody needs to be restarted for it, and a
tap that nobody watches costs nothing. A reader too slow for the traffic loses
events, and is told how many.`,
		Example: `  meshctl tap deploy/web -n emojivoto
  meshctl tap deploy/web -n emojivoto --to svc/voting-svc --path /emojivoto.v1.VotingService/VoteDoughnut
  meshctl tap ns/emojivoto -o json | jq .requestInitEvent.path`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := a.asked(cmd)
			if err != nil {
				return err
			}
			req, err := f.request(args, at.namespace)
			if err != nil {
				return err
			}
			q, done, err := at.connect()
			if err != nil {
				return err
			}
			defer done()
			stream, err := q.Tap(cmd.Context(), req)
			if err != nil {
				return apiError(err)
			}
			return f.print(cmd, stream.Recv)
		},
	}
	fl := c.Flags()
	fl.StringVarP(&f.labels, "selector", "l", "", "label selector, as kubectl's")
	fl.StringVar(&f.to, "to", "", "only requests to this resource (TYPE or TYPE/NAME)")
	fl.StringVar(&f.toNamespace, "to-namespace", "", "namespace of --to (default: of the resource)")
	fl.Float32Var(&f.maxRPS, "max-rps", 100, "at most so many requests per second")
	fl.StringVar(&f.match.Scheme, "scheme", "", "only requests with this scheme")
	fl.StringVar(&f.match.Method, "method", "", "only requests with this method")
	fl.StringVar(&f.match.Authority, "authority", "", "only requests with this :authority")
	fl.StringVar(&f.match.PathPrefix, "path", "", "only requests whose path begins so")
	fl.StringVarP(&f.output, "output", "o", "", "wide: labels too; json: one document a line, with headers")
	return c
}

func (f *tapFlags) request(args []string, namespace string) (*query.TapRequest, error) {
	if f.output != "" && f.output != "wide" && f.output != "json" {
		return nil, usage("--output %q: want wide or json", f.output)
	}
	if f.maxRPS < 1 || f.maxRPS > 100000 {
		return nil, usage("--max-rps %v: want 1 to 100000", f.maxRPS)
	}
	if f.match.PathPrefix != "" && !strings.HasPrefix(f.match.PathPrefix, "/") {
		return nil, usage("--path %q: a path begins with /", f.match.PathPrefix)
	}
	sel, err := parseResources(args, namespace, false, f.labels)
	if err != nil {
		return nil, err
	}
	to, err := parseOne("to", f.to, orElse(f.toNamespace, namespace))
	if err != nil {
		return nil, err
	}
	return &query.TapRequest{Resource: sel[0], To: to, Match: &f.match, MaxRps: uint32(f.maxRPS), Headers: f.output == "json"}, nil
}

// print writes events until the stream or the command ends.
func (f *tapFlags) print(cmd *cobra.Command, recv func() (*query.TapMessage, error)) error {
	out := cmd.OutOrStdout()
	for {
		m, err := recv()
		switch {
		case errors.Is(err, io.EOF), cmd.Context().Err() != nil:
			return nil
		case err != nil:
			return apiError(err)
		}
		if n := m.GetLost(); n > 0 {
			fmt.Fprintf(cmd.ErrOrStderr(), "%d events were not shown: more than --max-rps, or this reader is too slow\n", n)
			continue
		}
		e := m.GetEvent()
		if e == nil {
			continue
		}
		if f.output == "json" {
			err = render.TapJSON(out, e)
		} else {
			_, err = fmt.Fprintln(out, render.TapLine(e, f.output == "wide"))
		}
		if err != nil {
			return err // the reader went away
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
		return fmt.Errorf("the control plane does not answer: %s", s.Message())
	case codes.DeadlineExceeded:
		return errors.New("the control plane did not answer in time")
	}
	return errors.New(s.Message())
}
