package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/bench/measure"
	"github.com/tunmesh/tunmesh/bench/peer"
)

func peersCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "peers",
		Short: "List what can be measured: peers and workloads",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "PEER\tWHAT\tMODE")
			for _, m := range peer.All(peer.Options{}) {
				when := "always"
				switch {
				case m.Named:
					when = "by name"
				case m.Full:
					when = "full"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\n", m.Name, m.About, when)
			}
			fmt.Fprintln(w, "\nWORKLOAD\tWHAT\tMODE")
			for _, l := range measure.All() {
				when := "full"
				if l.Quick {
					when = "always"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\n", l.Name, l.About, when)
			}
			return w.Flush()
		},
	}
}
