//go:build !linux

package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/render"
)

// A local mesh is made of Linux's namespaces; everything else works from anywhere.

func becomePart([]string) {}

func (a *app) localCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "local",
		Short:              "Run a mesh on this machine, without Kubernetes (on Linux only)",
		Example:            `  meshctl local up`,
		DisableFlagParsing: true,
		RunE:               func(*cobra.Command, []string) error { return notHere() },
	}
}

func (a *app) localFleet() (fleet, error) { return nil, notHere() }

func (a *app) machineChecks() []render.CheckResult {
	return []render.CheckResult{check("this machine runs Linux", "namespaces", notHere)}
}

func notHere() error {
	return fmt.Errorf("a local mesh is made of Linux's namespaces, and this is %s: use a Linux machine, or a cluster", runtime.GOOS)
}
