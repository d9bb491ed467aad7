package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/installation"
	"github.com/tunmesh/tunmesh/deploy/manifest"
	"github.com/tunmesh/tunmesh/internal/version"
)

// installFlags are what install and upgrade have in common.
type installFlags struct {
	values                     manifest.Flags
	files                      installation.Files
	externalCA, externalIssuer bool
	ha                         bool
	output                     string
}

func (f *installFlags) add(c *cobra.Command) {
	f.addValues(c)
	fl := c.Flags()
	fl.BoolVar(&f.ha, "ha", false, "three replicas, and no pod without its sidecar while none of them answers")
	fl.StringVar(&f.files.Anchors, "identity-trust-anchors-file", "", "PEM file of the trust anchors (default: one is made)")
	fl.StringVar(&f.files.Certificate, "identity-issuer-certificate-file", "", "PEM file of the issuer's certificate, with what leads to an anchor after it")
	fl.StringVar(&f.files.Key, "identity-issuer-key-file", "", "PEM file of the issuer's key")
	fl.BoolVar(&f.externalCA, "identity-external-ca", false, "leave the ConfigMap tunmesh-trust-anchors to others, such as trust-manager")
	fl.BoolVar(&f.externalIssuer, "identity-external-issuer", false, "leave the Secret tunmesh-identity-issuer to others, such as cert-manager")
}

func (f *installFlags) addValues(c *cobra.Command) {
	fl := c.Flags()
	fl.StringSliceVarP(&f.values.Files, "values", "f", nil, "files of values of the chart, as Helm's")
	fl.StringArrayVar(&f.values.Set, "set", nil, "values of the chart, as control.logLevel=debug; as Helm's")
	fl.StringArrayVar(&f.values.SetString, "set-string", nil, "the same, taken for text")
	fl.StringArrayVar(&f.values.SetFile, "set-file", nil, "the same, with the content of a file: key=path")
	fl.StringVarP(&f.output, "output", "o", "yaml", "yaml or json")
}

// check finds what makes no sense before anything else is looked at.
func (f *installFlags) check() error {
	if f.output != "yaml" && f.output != "json" {
		return usage("-o %s: want yaml or json", f.output)
	}
	return nil
}

// over puts what the flags say over base; errors are of usage.
func (f *installFlags) over(base manifest.Values) (manifest.Values, error) {
	if f.ha {
		ha, err := manifest.HighAvailability()
		if err != nil {
			return nil, err
		}
		base = base.Merge(ha)
	}
	v, err := f.values.Over(base)
	if err != nil {
		return nil, usage("%w", err)
	}
	if f.externalCA {
		v = v.With(true, "identity", "externalCA").With("", "identity", "trustAnchorsPEM")
	}
	if f.externalIssuer {
		v = v.With(true, "identity", "issuer", "external").With("", "identity", "issuer", "certificatePEM").With("", "identity", "issuer", "keyPEM")
	}
	if v, err = f.files.Over(v); err != nil {
		return nil, usage("%w", err)
	}
	return v, nil
}

// print writes objects to standard output.
func (a *app) print(all manifest.Objects, output string) error {
	write := all.YAML
	if output == "json" {
		write = all.JSON
	}
	text, err := write()
	if err != nil {
		return err
	}
	if _, err := a.out.Write(text); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

func (a *app) installCommand() *cobra.Command {
	var (
		f      installFlags
		ignore bool
	)
	c := &cobra.Command{
		Use:   "install",
		Short: "Print what makes a mesh of a Kubernetes cluster",
		Long: `Prints the manifests of the control plane and of the node agents, for kubectl
apply. Nothing is changed by this command itself.

A trust anchor and an issuer are made where none are given; the anchor's key is
kept nowhere. There are no custom resources, so it needs no second step.`,
		Example: `  meshctl install | kubectl apply -f -
  meshctl install --ha --set control.logLevel=debug | kubectl apply -f -
  meshctl install --identity-external-issuer --identity-trust-anchors-file ca.crt | kubectl apply -f -`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			v, err := f.over(nil)
			if err != nil {
				return err
			}
			if !ignore {
				if err := a.nothingInstalled(cmd.Context()); err != nil {
					return err
				}
			}
			if v, err = installation.Certified(v, time.Now()); err != nil {
				return err
			}
			all, err := installation.Objects(v, version.String())
			if err != nil {
				return err
			}
			return a.print(all, f.output)
		},
	}
	f.add(c)
	c.Flags().BoolVar(&ignore, "ignore-cluster", false, "ask no cluster, whether there is something installed or not")
	return c
}

func (a *app) nothingInstalled(ctx context.Context) error {
	const hint = "--ignore-cluster asks none"
	c, err := a.cluster()
	if err != nil {
		return fmt.Errorf("%w; %s", err, hint)
	}
	ctx, cancel := context.WithTimeout(ctx, clusterWithin)
	defer cancel()
	there, err := installation.Find(ctx, c.kube)
	switch {
	case errors.Is(err, installation.ErrNone):
		return nil
	case err != nil:
		return fmt.Errorf("%w; %s", err, hint)
	}
	return fmt.Errorf("tunmesh %s is installed in this cluster (%s): meshctl upgrade prints what changes it, meshctl uninstall what removes it", there.Version, c.server)
}
