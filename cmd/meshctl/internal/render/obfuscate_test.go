package render_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/render"
)

func TestObfuscate(t *testing.T) {
	got, err := render.Obfuscate([]byte(`# HELP request_total of web.shop {a="b"}
# TYPE request_total counter
request_total{direction="outbound",authority="web.shop:80",dst_namespace="shop",tls="true"} 7
request_total{direction="inbound",authority="web.shop:80",client_id=""} 1e+03
request_total{authority="\"a\"\\",error="} \"x\""} 1
process_open_fds 9
empty{} 1
`))
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "page", string(got), `
# HELP request_total of web.shop {a="b"}
# TYPE request_total counter
request_total{direction="outbound",authority="0b5893ba",dst_namespace="8d9001d3",tls="true"} 7
request_total{direction="inbound",authority="0b5893ba",client_id=""} 1e+03
request_total{authority="053aef6e",error="} \"x\""} 1
process_open_fds 9
empty{} 1
`)
	for _, bad := range []string{"a{b} 1\n", `a{b="c} 1`, `a{b="c\`, "a{"} {
		if got, err := render.Obfuscate([]byte("x 1\n" + bad)); err == nil || !strings.Contains(err.Error(), "line 2 of the metrics") {
			t.Errorf("%s: %q, %v", bad, got, err)
		}
	}
}

// Whatever a page is, a name that it has as a label's value alone is not in what comes
// of it, and lines stay lines.
func FuzzObfuscate(f *testing.F) {
	f.Add("a", "b=\"c\"")
	f.Add(`\`, `"`)
	f.Fuzz(func(t *testing.T, before, after string) {
		const secret = "somebody.shop.svc"
		page := `m{` + before + `="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(after) + `",authority="` + secret + `"} 1` + "\n"
		got, err := render.Obfuscate([]byte(page))
		if err != nil || strings.ContainsAny(before, "=\"{}\n#") || strings.Contains(after, secret) || strings.Contains(before, secret) {
			return // no page, or one with the name elsewhere
		}
		if bytes.Contains(got, []byte(secret)) || bytes.Count(got, []byte("\n")) != 1 {
			t.Errorf("%q became %q", page, got)
		}
	})
}
