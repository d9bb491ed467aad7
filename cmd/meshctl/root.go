package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/state"
)

// app is what commands share: the terminal, the environment, the global flags.
type app struct {
	in  *os.File
	out io.Writer
	err io.Writer
	env func(string) string

	prog string   // as it was typed
	args []string // likewise

	local string // --local
	kube  *genericclioptions.ConfigFlags
	fake  *cluster // of tests; nil: the one that the flags name
}

// root is the whole tree of commands.
func (a *app) root() *cobra.Command {
	c := &cobra.Command{
		Use:   "meshctl",
		Short: "Install, run and look at a service mesh",
		Long: `meshctl installs a mesh in a Kubernetes cluster or runs one on this machine
(meshctl local), adds sidecars to manifests, and shows what the mesh does.

kubectl's global flags say which cluster is meant; those that are not listed
below (--server, --token, --request-timeout and so on) are understood, too.

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
	a.kube = kubeFlags()
	addKubeFlags(c.PersistentFlags(), a.kube)
	c.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage("%w; see %s --help", err, cmd.CommandPath())
	})
	c.AddCommand(
		a.localCommand(),
		a.installCommand(),
		a.upgradeCommand(),
		a.uninstallCommand(),
		a.pruneCommand(),
		a.installCNICommand(),
		a.injectCommand(),
		a.uninjectCommand(),
		a.statCommand(),
		a.statRoutesCommand(false),
		a.statRoutesCommand(true),
		a.topCommand(),
		a.tapCommand(),
		a.edgesCommand(),
		a.listCommand(),
		a.endpointsCommand("meshctl"),
		a.whyCommand(),
		a.checkCommand(),
		a.dashboardCommand(),
		a.identityCommand(),
		a.diagnosticsCommand(),
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

// needRoot tells who is not root what to type: the same again, as root.
func (a *app) needRoot() error {
	if os.Geteuid() == 0 {
		return nil
	}
	return fmt.Errorf("root is needed for namespaces and network devices: sudo -E %s", shellWords(append([]string{a.name()}, a.args...)))
}

// name is what this program was called by; another command is typed the same way.
func (a *app) name() string {
	if a.prog == "" {
		return "meshctl"
	}
	return a.prog
}

// shellWords are words as a shell reads them.
func shellWords(words []string) string {
	out := make([]string, len(words))
	for i, w := range words {
		plain := w != "" && strings.IndexFunc(w, func(r rune) bool {
			return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-_./:=@,+%", r)
		}) < 0
		if out[i] = w; !plain {
			out[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return strings.Join(out, " ")
}
