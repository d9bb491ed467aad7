package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/bench/peer"
	"github.com/tunmesh/tunmesh/bench/report"
	"github.com/tunmesh/tunmesh/bench/result"
)

func compareCommand() *cobra.Command {
	var all bool
	var gate bool
	var base, against string
	cmd := &cobra.Command{
		Use:   "compare OLD.json NEW.json",
		Short: "Compare two measurements with the statistics of benchstat",
		Long: `Compare two measurements: medians, and how likely a difference is by chance
(Mann-Whitney U, as benchstat has it). With --gate it fails when a figure of
tunmesh that depends little on the machine is worse than it may be: allocations
per request by 50 % and 2 objects, instructions by 10 %, memory by 20 % and 2 MB, and
work per CPU second relative to another peer of the same round by 35 %. On a
machine that was never quiet the last decides nothing.`,
		Example: "  bench compare old.json new.json\n  bench compare --gate docs/benchmarks/bench.json new.json",
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
			if !gate {
				return nil
			}
			return judge(cmd.OutOrStdout(), changes)
		},
	}
	fs := cmd.Flags()
	fs.BoolVar(&all, "all", false, "also figures that differ by chance only")
	fs.BoolVar(&gate, "gate", false, "fail when a stable figure is worse than it may be")
	fs.StringVar(&base, "base", peer.Tunmesh, "the peer that is judged")
	fs.StringVar(&against, "against", peer.Envoy, "the peer that ratios are to")
	return cmd
}

// judge is the gate.
func judge(w io.Writer, changes []report.Change) error {
	judged, undecided := 0, 0
	for _, c := range changes {
		switch {
		case c.Bound == nil:
		case c.Bound.Quiet && c.Noisy:
			undecided++
		default:
			judged++
		}
	}
	fmt.Fprintf(w, "gate: %d figures judged, %d ratios not, as the machine was never quiet\n", judged, undecided)
	if judged == 0 {
		return errors.New("gate: the documents have no figure in common that it could judge")
	}
	worse := report.Regressions(changes)
	for _, c := range worse {
		fmt.Fprintf(w, "REGRESSION: %s %s %s was %.4g, is %.4g: %.0f%% worse, %.0f%% is allowed\n", c.Workload, c.Peer, c.Metric, c.Old.Center, c.New.Center, 100*c.Worse, 100*c.Bound.Worse)
	}
	if len(worse) > 0 {
		return fmt.Errorf("gate: %d figures are worse than they may be", len(worse))
	}
	return nil
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
