package message

// NextElement splits the first element off a field value that is a comma-separated
// list (RFC 9110, section 5.6.1), without the whitespace around it. Empty elements
// are returned as such; rest is empty behind the last one.
func NextElement(list string) (element, rest string) {
	for i := range len(list) {
		if list[i] == ',' {
			return TrimOWS(list[:i]), list[i+1:]
		}
	}
	return TrimOWS(list), ""
}

// TrimOWS takes the optional whitespace off both ends of a field value (RFC 9110,
// section 5.6.3).
func TrimOWS(s string) string {
	for len(s) > 0 && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for len(s) > 0 && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}
