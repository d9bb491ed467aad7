//go:build linux

package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/creack/pty"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/ctl"
)

func (a *app) localExecCommand() *cobra.Command {
	var namespace, container string
	var noTTY bool
	c := &cobra.Command{
		Use:   "exec POD|TYPE/NAME [-c CONTAINER] -- COMMAND [ARG...]",
		Short: "Run a command in a container; its exit code is passed on",
		Long: `Run a command in a container, with the container's identity and environment.
TYPE/NAME, as in deploy/web, is the first pod of a workload.
With a terminal as stdin and stdout the command gets one too.`,
		Example: "  sudo meshctl local exec web-0 -- curl -s http://voting:8080/",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 || cmd.ArgsLenAtDash() > 1 || cmd.ArgsLenAtDash() == 0 {
				return errors.New("want POD -- COMMAND")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			p, err := findPod(client.Dir, namespace, args[0])
			if err != nil {
				return err
			}
			out, ok := a.out.(*os.File)
			tty := !noTTY && ok && isTerminal(a.in) && isTerminal(out)
			e := ctl.Exec{Namespace: p.Namespace, Pod: p.Name, Container: container, Argv: args[1:], TTY: tty}
			code, err := a.exec(cmd.Context(), client, e)
			if err != nil {
				return err
			}
			if code != 0 {
				return &exitError{code: code}
			}
			return nil
		},
	}
	c.Flags().StringVarP(&namespace, "namespace", "n", "", "the pod's namespace (default: any)")
	c.Flags().StringVarP(&container, "container", "c", "", "the container (default: the first)")
	c.Flags().BoolVarP(&noTTY, "no-tty", "T", false, "never use a terminal")
	return c
}

func (a *app) exec(ctx context.Context, client ctl.Client, e ctl.Exec) (int, error) {
	std := [3]*os.File{a.in, nil, nil}
	var wait func()
	if !e.TTY {
		var err error
		if std[1], std[2], wait, err = a.stdFiles(); err != nil {
			return 0, err
		}
	}
	p, err := client.Exec(ctx, e, std[0], std[1], std[2])
	if wait != nil {
		defer wait()
	}
	if err != nil {
		return 0, err
	}
	defer p.Close()
	if p.Terminal != nil {
		back, err := a.attach(p)
		if err != nil {
			return 0, err
		}
		defer back()
	}
	return p.Wait()
}

// stdFiles are the app's outputs as files; wait copies what is not one.
func (a *app) stdFiles() (out, errOut *os.File, wait func(), err error) {
	var pending []chan struct{}
	var writers []*os.File
	file := func(w io.Writer) (*os.File, error) {
		if f, ok := w.(*os.File); ok {
			return f, nil
		}
		pr, pw, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		done := make(chan struct{})
		pending, writers = append(pending, done), append(writers, pw)
		go func() {
			defer close(done)
			_, _ = io.Copy(w, pr)
			_ = pr.Close()
		}()
		return pw, nil
	}
	if out, err = file(a.out); err == nil {
		errOut, err = file(a.err)
	}
	return out, errOut, func() {
		for i := range pending {
			_ = writers[i].Close()
			<-pending[i]
		}
	}, err
}

// attach joins this terminal with the process's, until back is called.
func (a *app) attach(p *ctl.Process) (back func(), err error) {
	before, err := term.MakeRaw(int(a.in.Fd()))
	if err != nil {
		return nil, err
	}
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	go func() {
		_ = pty.InheritSize(a.in, p.Terminal)
		for range resized {
			_ = pty.InheritSize(a.in, p.Terminal)
		}
	}()
	output := make(chan struct{})
	go func() {
		defer close(output)
		_, _ = io.Copy(a.out, p.Terminal) // ends with EIO when the process has ended
	}()
	go func() { _, _ = io.Copy(p.Terminal, a.in) }()
	return func() {
		<-output
		signal.Stop(resized)
		close(resized)
		_ = term.Restore(int(a.in.Fd()), before)
	}, nil
}
