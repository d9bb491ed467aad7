package control_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/tunmesh/tunmesh/control"
)

// What the page has cert-manager and trust-manager make is what the control plane
// reads.
func TestCertificatesOfThePage(t *testing.T) {
	page, err := os.ReadFile("../docs/certificates.md")
	if err != nil {
		t.Fatal(err)
	}
	type object struct {
		Kind     string
		Metadata struct{ Name, Namespace string }
		Spec     struct {
			IsCA       bool
			SecretName string
			Usages     []string
			Target     struct {
				ConfigMap         struct{ Key string }
				NamespaceSelector struct{ MatchLabels map[string]string }
			}
		}
	}
	found := map[string]bool{}
	for _, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		for doc := range strings.SplitSeq(block[1], "---\n") {
			var o object
			if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
				t.Fatalf("%v: %s", err, doc)
			}
			switch {
			case o.Kind == "Certificate" && o.Metadata.Namespace == control.Namespace:
				found["issuer"] = o.Spec.SecretName == control.IssuerSecret && o.Spec.IsCA && strings.Join(o.Spec.Usages, ",") == "cert sign,crl sign"
			case o.Kind == "Bundle":
				at := o.Spec.Target
				found["anchors"] = o.Metadata.Name == control.AnchorsConfigMap && at.ConfigMap.Key == control.AnchorsKey &&
					at.NamespaceSelector.MatchLabels["kubernetes.io/metadata.name"] == control.Namespace
			}
		}
	}
	if !found["issuer"] || !found["anchors"] {
		t.Errorf("as the control plane reads them: %v", found)
	}
}
