package eyes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"
)

// patience bounds a question. Figures come with a scrape, and a rare request with
// luck, on a machine that does much else.
const patience = time.Minute

// Question is a line that somebody types.
type Question struct {
	Line string   // of a shell, beginning with meshctl
	Exit int      // its exit code; a line that Lasts has 0
	Out  []string // regular expressions of what it prints, (?m) each
	Err  string   // the same of what it says on standard error; "": nothing
	// Lasts is a line that goes on until it is interrupted, which it is when Out was
	// printed.
	Lasts bool
}

// Shell is a shell that finds a mesh and its meshctl.
type Shell func(ctx context.Context, line string) *exec.Cmd

// atOnce is how many questions are asked at the same time: most of them wait for
// traffic, whatever the machine is.
const atOnce = 8

// Ask asks questions, each again until its answer is right or patience is at an end.
func (s Shell) Ask(t *testing.T, questions []Question) {
	var asking errgroup.Group
	asking.SetLimit(atOnce)
	for _, q := range questions {
		asking.Go(func() error {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			for {
				said, err := s.ask(ctx, q)
				if err == nil {
					if !utf8.ValidString(said) {
						said = fmt.Sprintf("%d bytes", len(said))
					}
					t.Logf("\n$ %s\n%s", q.Line, said)
					return nil
				}
				select {
				case <-ctx.Done():
					t.Errorf("%s: %v", q.Line, err)
					return nil
				case <-time.After(time.Second):
				}
			}
		})
	}
	_ = asking.Wait() // what is wrong has been said
}

// ask asks once and returns what was said, an error when that is not right.
func (s Shell) ask(ctx context.Context, q Question) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience/2)
	defer cancel()
	cmd := s(ctx, "exec "+q.Line) // so that a signal is meshctl's
	cmd.WaitDelay = 5 * time.Second
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	out := &answer{}
	if q.Lasts {
		out.enough = func(text string) bool { return missing(text, q.Out) == "" }
		out.then = cancel
	}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = out, &said
	err := cmd.Run()
	code := cmd.ProcessState.ExitCode()
	if code < 0 {
		return "", fmt.Errorf("%w: %s", err, said.String())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, context.Canceled) {
		return "", err
	}
	switch lacks := missing(out.String(), q.Out); {
	case code != q.Exit:
		err = fmt.Errorf("exit code %d, want %d", code, q.Exit)
	case lacks != "":
		err = fmt.Errorf("nothing printed is %s", lacks)
	case len(q.Out) == 0 && out.String() != "":
		err = errors.New("it prints something")
	case q.Err == "" && said.Len() > 0 || missing(said.String(), []string{q.Err}) != "":
		err = fmt.Errorf("it says on standard error something else than %q", q.Err)
	default:
		return out.String() + said.String(), nil
	}
	return "", fmt.Errorf("%w:\n%s%s", err, out.String(), said.String())
}

// missing is the first of the expressions that text lacks.
func missing(text string, want []string) string {
	for _, w := range want {
		if !regexp.MustCompile("(?m)" + w).MatchString(text) {
			return w
		}
	}
	return ""
}

// answer is what a line prints.
type answer struct {
	enough func(string) bool
	then   func()

	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (a *answer) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.text.Write(p)
	if a.then != nil && a.enough(a.text.String()) {
		a.then()
	}
	return len(p), nil
}

func (a *answer) String() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.text.String()
}
