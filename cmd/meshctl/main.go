// meshctl is what people type: a mesh on this machine (meshctl local), the
// injector, and views of what the mesh does. One file per command.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	becomePart(os.Args)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, &app{in: os.Stdin, out: os.Stdout, err: os.Stderr, env: os.Getenv, prog: os.Args[0], args: os.Args[1:]}, os.Args[1:])
	stop()
	os.Exit(code)
}

// run executes a command line and returns the exit code: 0 it is done, 1 it
// failed, 2 the command line makes no sense, else what the command says (exec
// passes on its command's).
func run(ctx context.Context, a *app, args []string) int {
	root := a.root()
	root.SetArgs(localArgs(args))
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	var e *exitError
	if !errors.As(err, &e) {
		e = &exitError{code: exitFailed, err: err}
	}
	if e.err != nil {
		fmt.Fprintln(a.err, "meshctl:", e.err)
	}
	return e.code
}

// localArgs lets --local stand alone for the default mesh, as in `meshctl check
// --local`, and take a name, as in `meshctl --local demo stat deploy`.
func localArgs(args []string) []string {
	out := append([]string(nil), args...)
	for i, arg := range out {
		if arg == "--" {
			break
		}
		if arg == "--local" && (i+1 == len(out) || len(out[i+1]) > 0 && out[i+1][0] == '-') {
			out[i] = "--local="
		}
	}
	return out
}
