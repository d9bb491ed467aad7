package telemetry

import (
	"strconv"
	"strings"
)

// Format is how a page is written. The zero Format is the Prometheus text format,
// version 0.0.4.
type Format struct {
	OpenMetrics bool // version 1.0.0, with exemplars
	Gzip        bool
}

// Negotiate chooses by the Accept and Accept-Encoding fields of a request.
func Negotiate(accept, encoding string) Format {
	open, text := 0.0, 0.0
	if accept == "" {
		text = 1
	}
	for _, e := range elements(accept) {
		switch e.name {
		case "application/openmetrics-text":
			if e.version == "" || e.version == "1.0.0" || e.version == "0.0.1" {
				open = max(open, e.q)
			}
		case "text/plain", "text/*", "*/*":
			text = max(text, e.q)
		}
	}
	f := Format{OpenMetrics: open > 0 && open >= text}
	gzip, named := 0.0, false
	for _, e := range elements(encoding) {
		switch {
		case e.name == "gzip":
			gzip, named = e.q, true
		case e.name == "*" && !named:
			gzip = e.q
		}
	}
	f.Gzip = gzip > 0
	return f
}

// ContentType is the value of the field of that name.
func (f Format) ContentType() string {
	if f.OpenMetrics {
		return "application/openmetrics-text; version=1.0.0; charset=utf-8"
	}
	return "text/plain; version=0.0.4; charset=utf-8"
}

// element is one of a field's list, with the parameters that matter.
type element struct {
	name, version string
	q             float64
}

// maxElements bounds what is read of a field.
const maxElements = 32

func elements(field string) []element {
	var all []element
	for part := range strings.SplitSeq(field, ",") {
		name, rest, _ := strings.Cut(part, ";")
		e := element{name: strings.ToLower(strings.TrimSpace(name)), q: 1}
		for p := range strings.SplitSeq(rest, ";") {
			k, v, _ := strings.Cut(p, "=")
			switch v = strings.Trim(strings.TrimSpace(v), `"`); strings.ToLower(strings.TrimSpace(k)) {
			case "q":
				q, err := strconv.ParseFloat(v, 64)
				if err != nil || !(q >= 0 && q <= 1) {
					q = 0
				}
				e.q = q
			case "version":
				e.version = v
			}
		}
		if all = append(all, e); len(all) == maxElements {
			break
		}
	}
	return all
}
