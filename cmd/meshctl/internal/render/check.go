package render

import (
	"fmt"
	"io"
	"strings"
)

// Check results, by Linkerd's names.
const (
	CheckSuccess = "success"
	CheckWarning = "warning"
	CheckError   = "error"
)

// CheckCategory groups checks.
type CheckCategory struct {
	Name   string        `json:"categoryName"`
	Checks []CheckResult `json:"checks"`
}

// CheckResult is one check. Hint is what to read.
type CheckResult struct {
	Description string `json:"description"`
	Hint        string `json:"hint,omitempty"`
	Error       string `json:"error,omitempty"`
	Result      string `json:"result"`
}

// Passed reports whether no check failed; warnings pass.
func Passed(cats []CheckCategory) bool {
	for _, c := range cats {
		for _, r := range c.Checks {
			if r.Result == CheckError {
				return false
			}
		}
	}
	return true
}

// Glyph is a result's mark.
func Glyph(result string) string {
	switch result {
	case CheckSuccess:
		return "√"
	case CheckWarning:
		return "‼"
	}
	return "×"
}

// Checks prints categories as `linkerd check` does; short leaves out what is well.
func Checks(w io.Writer, cats []CheckCategory, short bool) error {
	var b strings.Builder
	for _, c := range cats {
		shown := 0
		for _, r := range c.Checks {
			if short && r.Result == CheckSuccess {
				continue
			}
			if shown == 0 {
				fmt.Fprintf(&b, "%s\n%s\n", c.Name, strings.Repeat("-", len(c.Name)))
			}
			shown++
			fmt.Fprintf(&b, "%s %s\n", Glyph(r.Result), r.Description)
			if r.Result == CheckSuccess {
				continue
			}
			for line := range strings.Lines(r.Error) {
				fmt.Fprintf(&b, "    %s\n", strings.TrimRight(line, "\n"))
			}
			if r.Hint != "" {
				fmt.Fprintf(&b, "    see %s for hints\n", r.Hint)
			}
		}
		if shown > 0 {
			b.WriteByte('\n')
		}
	}
	result := CheckSuccess
	if !Passed(cats) {
		result = CheckError
	}
	fmt.Fprintf(&b, "Status check results are %s\n", Glyph(result))
	_, err := io.WriteString(w, b.String())
	return err
}

// ChecksJSON prints {success, categories}.
func ChecksJSON(w io.Writer, cats []CheckCategory) error {
	return writeJSON(w, struct {
		Success    bool            `json:"success"`
		Categories []CheckCategory `json:"categories"`
	}{Passed(cats), cats})
}
