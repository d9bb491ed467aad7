package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/internal/version"
)

func (a *app) versionCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Example: `  meshctl version
  meshctl version -o json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			switch output {
			case "":
				_, err := fmt.Fprintln(a.out, "meshctl", version.String())
				return err
			case "json":
				return json.NewEncoder(a.out).Encode(map[string]string{"client": version.String()})
			}
			return usage("-o %s: want json", output)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "json, or nothing for text")
	return c
}
