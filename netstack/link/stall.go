package link

// stallTimes is how often one segment is sent again before its size is suspect,
// as often as Linux tries: after 1.4 s where a round trip is short.
const stallTimes = 3

// sent is what a Flow knows about the bytes that left.
type sent struct {
	next  uint32 // after the last
	again uint32 // where the last segment that was sent again begins
	times uint8  // how often it was
}

// add notes a segment of n bytes, and reports whether it is the one that was
// sent again for the third time: others got no further meanwhile.
func (s *sent) add(seq uint32, n int) bool {
	if end := seq + uint32(n); int32(end-s.next) > 0 {
		s.next = end
		return false
	}
	if seq != s.again {
		s.again, s.times = seq, 0
	}
	if s.times <= stallTimes {
		s.times++
	}
	return s.times == stallTimes
}
