package main

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/render"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

func (a *app) identityCommand() *cobra.Command {
	var selector, output string
	c := &cobra.Command{
		Use:   "identity [POD…]",
		Short: "Show the certificates that pods' sidecars have now",
		Long: `Prints the certificate of each pod's sidecar: whom it names, who issued it, and
until when it holds. Pods without a sidecar are left out, unless they are named.`,
		Example: `  meshctl identity web-5d8c9 -n emojivoto
  meshctl identity -n emojivoto -l app=web
  meshctl identity -n emojivoto -o json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "text" && output != "json" {
				return usage("-o %s: want text or json", output)
			}
			if len(args) > 0 && selector != "" {
				return usage("name pods or select them by labels, not both")
			}
			of, ns, err := a.fleet(cmd)
			if err != nil {
				return err
			}
			var pods []corev1.Pod
			for _, name := range args {
				p, err := of.podsOf(cmd.Context(), ns, name, "")
				if err != nil {
					return err
				}
				if len(meshed(p)) == 0 {
					return fmt.Errorf("pod %s/%s has no sidecar", ns, name)
				}
				pods = append(pods, p...)
			}
			if len(args) == 0 {
				if pods, err = of.podsOf(cmd.Context(), ns, "", selector); err != nil {
					return err
				}
				pods = meshed(pods)
			}
			if len(pods) == 0 {
				return fmt.Errorf("no pod in %s has a sidecar", ns)
			}
			return a.identities(cmd, of, pods, output == "json")
		},
	}
	c.Flags().StringVarP(&selector, "selector", "l", "", "label selector, as kubectl's")
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return c
}

func (a *app) identities(cmd *cobra.Command, of fleet, pods []corev1.Pod, asJSON bool) error {
	var all []render.Identity
	for i := range pods {
		p := &pods[i]
		text, err := of.get(cmd.Context(), p, strconv.Itoa(annotation.AdminPort), "certificate")
		if err != nil {
			return err
		}
		block, _ := pem.Decode(text)
		if block == nil {
			return fmt.Errorf("pod %s/%s sent no certificate", p.Namespace, p.Name)
		}
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("read the certificate of pod %s/%s: %w", p.Namespace, p.Name, err)
		}
		if asJSON {
			all = append(all, render.IdentityOf(p.Namespace, p.Name, leaf))
			continue
		}
		if _, err := fmt.Fprintf(a.out, "POD %s (%d of %d)\n\n%s\n", p.Name, i+1, len(pods), render.Certificate(leaf)); err != nil {
			return err
		}
	}
	if asJSON {
		return json.NewEncoder(a.out).Encode(all)
	}
	return nil
}
