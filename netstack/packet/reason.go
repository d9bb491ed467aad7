package packet

import "fmt"

// Reason says why a packet went nowhere. The names are stable: they are the
// label of a metric.
type Reason uint8

// The reasons. NoReason means that the packet was not dropped.
const (
	NoReason       Reason = iota
	Malformed             // a length or version that cannot be
	BadChecksum           // IPv4 header or TCP checksum
	SpoofedSource         // from the app, and not an address of the pod
	NotForPod             // from the wire, and not to an address of the pod
	Martian               // loopback, unspecified, or the pod's own address from outside
	LinkLocal             // fe80::/10, and the messages that live on one link only
	Multicast             // group and broadcast addresses
	Protocol              // a protocol that no annotation names
	ExtensionChain        // an IPv6 chain that cannot be walked to its end
	IPOptions             // an option that steers, or one that is not known
	ICMPRedirect          // redirects and router advertisements
	ICMPUnowned           // an error about a TCP connection that is not one of ours
	ICMPInvalid           // an error that cannot be read, or a path MTU below the minimum
	ResetLimit            // a segment of no connection, beyond the rate of resets
	ResetIgnored          // a reset of no connection
	PendingLimit          // a SYN while too many wait for an answer
	SYNLimit              // a SYN while the loop is behind with the side's packets
	ConnLimit             // a SYN while the side has as many connections as it may
	ClientLimit           // a SYN of a client that has as many as are free
	MemoryLimit           // received bytes of a connection that holds as much as is free
	Reassembly            // a TCP segment in pieces that contradict each other, or of which one stayed away
	InboxLimit            // for another loop, whose inbox is full
	WriteFailed           // the device did not take it
	numReasons
)

// Reasons is the number of reasons, for arrays indexed by Reason.
const Reasons = int(numReasons)

func (r Reason) String() string {
	names := [...]string{
		"none", "malformed", "bad_checksum", "spoofed_source", "not_for_pod", "martian", "link_local",
		"multicast", "protocol", "extension_chain", "ip_options", "icmp_redirect", "icmp_unowned",
		"icmp_invalid", "reset_limit", "reset_ignored", "pending_limit", "syn_limit", "connection_limit", "client_limit", "memory_limit", "reassembly", "inbox_limit", "write_failed",
	}
	if int(r) < len(names) {
		return names[r]
	}
	return "unknown"
}

// MarshalText implements encoding.TextMarshaler.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Reason) UnmarshalText(b []byte) error {
	for i := range numReasons {
		if i.String() == string(b) {
			*r = i
			return nil
		}
	}
	return fmt.Errorf("read a reason: %q is none", b)
}
