package peer

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"text/template"

	"sigs.k8s.io/yaml"
)

// render fills a template strictly: a field that nobody sets is an error.
func render(t *testing.T, text string, data any) string {
	t.Helper()
	var b bytes.Buffer
	if err := template.Must(template.New("").Option("missingkey=error").Parse(text)).Execute(&b, data); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestEnvoyConfig: each side is well-formed, and TLS is where it belongs: towards
// the server on one side, from the client on the other, with certificates asked for.
func TestEnvoyConfig(t *testing.T) {
	for _, client := range []bool{true, false} {
		d := envoyData{Client: client, Other: "server.name", Peer: "spiffe://peer", CA: "/ca", Cert: "/cert", Key: "/key", Target: netip.MustParseAddr("10.0.0.1"),
			Ports: []envoyPort{{Listen: 17001, Port: 7001}, {Listen: 18001, Port: 8001, HTTP: true}, {Listen: 18002, Port: 8002, HTTP: true, Two: true}}}
		text := render(t, envoyConfig, d)
		var doc struct {
			Static struct {
				Listeners, Clusters []map[string]any
			} `json:"static_resources"`
		}
		if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if len(doc.Static.Listeners) != 3 || len(doc.Static.Clusters) != 3 {
			t.Errorf("%d listeners and %d clusters for 3 ports", len(doc.Static.Listeners), len(doc.Static.Clusters))
		}
		up, down := strings.Count(text, "UpstreamTlsContext"), strings.Count(text, "DownstreamTlsContext")
		if client && (up != 3 || down != 0) || !client && (up != 0 || down != 3 || strings.Count(text, "require_client_certificate: true") != 3) {
			t.Errorf("client %v: TLS to %d upstreams, from %d downstreams", client, up, down)
		}
		if n := strings.Count(text, "TLSv1_3"); n != 6 {
			t.Errorf("TLS 1.3 is named %d times", n)
		}
	}
}

func TestOtherConfigs(t *testing.T) {
	for name, text := range map[string]string{"haproxy": haproxyConfig, "nginx": nginxConfig, "nghttpx": nghttpxConfig} {
		for _, client := range []bool{true, false} {
			d := fileData{Client: client, Target: "10.0.0.1", CA: "/ca.pem", Cert: "/cert.pem", Key: "/cert.key", Both: "/both.pem", OtherName: "other.name", HTTP: 18001}
			got := render(t, text, d)
			if strings.Contains(got, "<no value>") || !strings.Contains(got, "/ca.pem") || !strings.Contains(got, "18001") {
				t.Errorf("%s, client %v:\n%s", name, client, got)
			}
			if !strings.Contains(got, "TLSv1.3") {
				t.Errorf("%s, client %v: TLS 1.3 is not asked for:\n%s", name, client, got)
			}
		}
	}
}
