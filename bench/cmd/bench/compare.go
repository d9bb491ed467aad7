package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/bench/peer"
	"github.com/tunmesh/tunmesh/bench/report"
	"github.com/tunmesh/tunmesh/bench/result"
)

func compareCommand() *cobra.Command {
	var all bool
	var gate float64
	var base, against string
	cmd := &cobra.Command{
		Use:   "compare OLD.json NEW.json",
		Short: "Compare two measurements with the statistics of benchstat",
		Long: `Compare two measurements: medians, and how likely a difference is by chance
(Mann-Whitney U, as benchstat has it). With --gate PERCENT it fails when a figure
of tunmesh that depends little on the machine is worse by more than that: memory,
and work per CPU second relative to another peer of the same round.`,
		Example: "  bench compare old.json new.json\n  bench compare --gate 15 docs/benchmarks/bench.json new.json",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			before, err := result.Read(args[0])
			if err != nil {
				return err
			}
			after, err := result.Read(args[1])
			if err != nil {
				return err
			}
			changes := report.Compare(before, after, base, against)
			if len(changes) == 0 {
				return fmt.Errorf("compare %s and %s: they have no workload and peer in common", args[0], args[1])
			}
			if err := report.Changes(cmd.OutOrStdout(), changes, all); err != nil {
				return err
			}
			if !cmd.Flags().Changed("gate") {
				return nil
			}
			worse := report.Regressions(changes, gate/100)
			for _, c := range worse {
				fmt.Fprintf(cmd.OutOrStdout(), "REGRESSION: %s %s %s is %.1f%% worse\n", c.Workload, c.Peer, c.Metric, 100*c.Worse)
			}
			if len(worse) > 0 {
				return fmt.Errorf("%d figures are worse by more than %g%%", len(worse), gate)
			}
			return nil
		},
	}
	fs := cmd.Flags()
	fs.BoolVar(&all, "all", false, "also figures that differ by chance only")
	fs.Float64Var(&gate, "gate", 0, "fail when a stable figure is worse by more than so many percent")
	fs.StringVar(&base, "base", peer.Tunmesh, "the peer that is judged")
	fs.StringVar(&against, "against", peer.Envoy, "the peer that ratios are to")
	return cmd
}

func reportCommand() *cobra.Command {
	var base, out string
	cmd := &cobra.Command{
		Use:     "report FILE.json",
		Short:   "Render a measurement: the table, and with --out Markdown and plots",
		Example: "  bench report bench.json --out docs/benchmarks",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			doc, err := result.Read(args[0])
			if err != nil {
				return err
			}
			doc.Fill(peer.Direct)
			if out != "" {
				if err := report.Write(out, doc, base); err != nil {
					return err
				}
			}
			return report.Table(cmd.OutOrStdout(), doc, base)
		},
	}
	cmd.Flags().StringVar(&base, "base", peer.Tunmesh, "the peer that others are compared with")
	cmd.Flags().StringVar(&out, "out", "", "folder for report.md, SVG plots and bench.json")
	return cmd
}
