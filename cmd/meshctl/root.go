package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/state"
)

// app is what commands share: the terminal, the environment, the global flags.
type app struct {
	in  *os.File
	out io.Writer
	err io.Writer
	env func(string) string

	local string // --local
}

// root is the whole tree of commands.
func (a *app) root() *cobra.Command {
	c := &cobra.Command{
		Use:   "meshctl",
		Short: "Run and look at a service mesh",
		Long: `meshctl runs a mesh on this machine (meshctl local), adds sidecars to
manifests, and shows what the mesh does.

Exit codes: 0 done, 1 failed, 2 a command line that makes no sense; exec exits
with its command's code.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	c.SetIn(a.in)
	c.SetOut(a.out)
	c.SetErr(a.err)
	c.PersistentFlags().StringVar(&a.local, "local", "", "name of the local mesh (environment: TUNMESH_LOCAL; default "+state.DefaultName+")")
	c.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage("%w; see %s --help", err, cmd.CommandPath())
	})
	c.AddCommand(
		a.localCommand(),
		a.injectCommand(),
		a.uninjectCommand(),
		a.statCommand(),
		a.tapCommand(),
		a.checkCommand(),
		a.versionCommand(),
	)
	argErrors(c)
	return c
}

// argErrors makes wrong arguments errors of usage, everywhere.
func argErrors(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usage("%w; see %s --help", err, cmd.CommandPath())
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		argErrors(sub)
	}
}

// mesh is the state of the local mesh that the command line or the environment
// names.
func (a *app) mesh() (state.Dir, error) {
	name := a.local
	if name == "" {
		name = a.env("TUNMESH_LOCAL")
	}
	if name == "" {
		name = state.DefaultName
	}
	d, err := state.Named(name)
	if err != nil {
		return "", usage("--local: %w", err)
	}
	return d, nil
}

// needRoot tells who is not root what to type.
func needRoot(command string) error {
	if os.Geteuid() == 0 {
		return nil
	}
	return fmt.Errorf("root is needed for namespaces and network devices: sudo -E %s", command)
}
