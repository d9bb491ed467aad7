package render

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/tunmesh/tunmesh/api/query"
)

// Why prints an explanation: a line for each reason, then the verdict.
func Why(w io.Writer, resp *query.WhyResponse) error {
	width := 0
	for _, r := range resp.GetReasons() {
		width = max(width, utf8.RuneCountInString(r.GetSubject()))
	}
	var b strings.Builder
	for _, r := range resp.GetReasons() {
		mark := map[query.Reason_Mark]string{query.Reason_OK: "√", query.Reason_NOTE: "‼", query.Reason_BAD: "×"}[r.GetMark()]
		fmt.Fprintf(&b, "%s %-*s  %s\n", mark, width, r.GetSubject(), clean(r.GetText()))
	}
	fmt.Fprintf(&b, "\n%s\n", clean(resp.GetSummary()))
	_, err := io.WriteString(w, b.String())
	return err
}

// WhyJSON prints the same as JSON.
func WhyJSON(w io.Writer, resp *query.WhyResponse) error {
	type reason struct {
		Subject string `json:"subject"`
		Mark    string `json:"mark"`
		Text    string `json:"text"`
	}
	out := struct {
		Verdict string   `json:"verdict"`
		Summary string   `json:"summary"`
		Reasons []reason `json:"reasons"`
	}{strings.ToLower(resp.GetVerdict().String()), resp.GetSummary(), []reason{}}
	for _, r := range resp.GetReasons() {
		out.Reasons = append(out.Reasons, reason{r.GetSubject(), strings.ToLower(r.GetMark().String()), r.GetText()})
	}
	return writeJSON(w, out)
}
