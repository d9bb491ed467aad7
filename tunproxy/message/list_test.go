package message_test

import (
	"slices"
	"testing"

	"github.com/tunmesh/tunmesh/tunproxy/message"
)

func TestNextElement(t *testing.T) {
	for list, want := range map[string][]string{
		"close":                      {"close"},
		"close, Upgrade":             {"close", "Upgrade"},
		" \tclose\t ,\tte ,x":        {"close", "te", "x"},
		"a,,b":                       {"a", "", "b"},
		", ":                         {"", ""},
		"a b, c":                     {"a b", "c"},
		"trailers;q=0.5,deflate;q=1": {"trailers;q=0.5", "deflate;q=1"},
	} {
		var got []string
		for rest := list; rest != ""; {
			var e string
			e, rest = message.NextElement(rest)
			got = append(got, e)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", list, got, want)
		}
	}
}
