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
			fmt.Fprintln(w, "PEER\tWHAT")
			for _, m := range peer.All(peer.Options{}) {
				fmt.Fprintf(w, "%s\t%s\n", m.Name, m.About)
			}
			fmt.Fprintln(w, "\nWORKLOAD\tWHAT\tQUICK MODE")
			for _, l := range measure.All() {
				quick := ""
				if l.Quick {
					quick = "yes"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\n", l.Name, l.About, quick)
			}
			return w.Flush()
		},
	}
}
