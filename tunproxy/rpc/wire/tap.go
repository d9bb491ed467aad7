package wire

import "google.golang.org/protobuf/encoding/protowire"

// MethodAttachTap is of tunmesh.tap.v1.Tap.
const MethodAttachTap = "/tunmesh.tap.v1.Tap/Attach"

// FromProxy is tunmesh.tap.v1.FromProxy: one of its fields is set.
type FromProxy struct {
	Hello       *Hello
	Event       *Event
	Lost        *Lost
	Packets     *Packets
	Connections *Connections
}

// Append encodes m.
func (m *FromProxy) Append(b []byte) []byte {
	switch {
	case m.Hello != nil:
		return appendMessage(b, 1, m.Hello)
	case m.Event != nil:
		return appendMessage(b, 2, m.Event)
	case m.Lost != nil:
		return appendMessage(b, 3, m.Lost)
	case m.Connections != nil:
		return appendMessage(b, 8, m.Connections)
	case m.Packets != nil:
		return appendMessage(b, 4, m.Packets)
	}
	return b
}

// Hello is tunmesh.tap.v1.Hello.
type Hello struct{ Pod string }

// Append encodes m.
func (m *Hello) Append(b []byte) []byte { return appendString(b, 1, m.Pod) }

// Lost is tunmesh.tap.v1.Lost.
type Lost struct{ Tap, Events uint64 }

// Append encodes m.
func (m *Lost) Append(b []byte) []byte { return appendUint(appendUint(b, 1, m.Tap), 2, m.Events) }

// Connections is tunmesh.tap.v1.Connections.
type Connections struct {
	ID          uint64
	Connections []Connection
	Total       uint64
	More        bool
}

// Append encodes m.
func (m *Connections) Append(b []byte) []byte {
	b = appendUint(b, 1, m.ID)
	for i := range m.Connections {
		b = appendMessage(b, 2, &m.Connections[i])
	}
	b = appendUint(b, 3, m.Total)
	if m.More {
		b = appendUint(b, 4, 1)
	}
	return b
}

// Connection is tunmesh.tap.v1.Connection.
type Connection struct {
	Direction, Protocol, Local, Remote                      string
	AgeUS, BytesIn, BytesOut, RTTUS                         uint64
	Retransmits, Timeouts, OutOfOrder, ZeroWindows, Dropped uint64
	Labels                                                  map[string]string
}

// Append encodes m.
func (m *Connection) Append(b []byte) []byte {
	for i, s := range []string{m.Direction, m.Protocol, m.Local, m.Remote} {
		b = appendString(b, protowire.Number(1+i), s)
	}
	for i, n := range []uint64{m.AgeUS, m.BytesIn, m.BytesOut, m.RTTUS, m.Retransmits, m.Timeouts, m.OutOfOrder, m.ZeroWindows, m.Dropped} {
		b = appendUint(b, protowire.Number(5+i), n)
	}
	return appendMap(b, 14, m.Labels)
}

// Ask is tunmesh.tap.v1.Ask.
type Ask struct {
	ID    uint64
	Limit uint32
}

// Command is tunmesh.tap.v1.Command. Match and Ask are nil when absent.
type Command struct {
	Tap     uint64
	Match   *Match
	MaxRPS  uint32
	Headers bool
	Ask     *Ask
	Capture *Capture // nil: requests
}

// Decode replaces m.
func (m *Command) Decode(b []byte) error {
	*m = Command{}
	return each("Command", b, func(f field) error {
		switch f.num {
		case 1:
			return f.u64(&m.Tap)
		case 2:
			if m.Match == nil {
				m.Match = &Match{}
			}
			return f.message(m.Match.merge)
		case 3:
			return f.u32(&m.MaxRPS)
		case 4:
			return f.boolean(&m.Headers)
		case 8:
			if m.Ask == nil {
				m.Ask = &Ask{}
			}
			return f.message(m.Ask.merge)
		case 5:
			if m.Capture == nil {
				m.Capture = &Capture{}
			}
			return f.message(m.Capture.merge)
		}
		return nil
	})
}

func (m *Ask) merge(b []byte) error {
	return each("Ask", b, func(f field) error {
		switch f.num {
		case 1:
			return f.u64(&m.ID)
		case 2:
			return f.u32(&m.Limit)
		}
		return nil
	})
}

// Capture is tunmesh.tap.v1.Capture.
type Capture struct{ SnapLength uint32 }

func (m *Capture) merge(b []byte) error {
	return each("Capture", b, func(f field) error {
		if f.num == 1 {
			return f.u32(&m.SnapLength)
		}
		return nil
	})
}

// Packets is tunmesh.tap.v1.Packets.
type Packets struct {
	Tap, Lost   uint64
	Connections uint32
	Packets     []Packet
}

// Append encodes m.
func (m *Packets) Append(b []byte) []byte {
	b = appendUint(b, 1, m.Tap)
	for i := range m.Packets {
		b = appendMessage(b, 2, &m.Packets[i])
	}
	return appendUint(appendUint(b, 3, m.Lost), 4, uint64(m.Connections))
}

// Packet is tunmesh.tap.v1.Packet.
type Packet struct {
	UnixNano  int64
	App, Sent bool
	Length    uint32
	Data      []byte
}

// Append encodes m.
func (m *Packet) Append(b []byte) []byte {
	b = appendUint(b, 1, uint64(m.UnixNano)) //nolint:gosec // two's complement on the wire
	b = appendUint(b, 2, bit(m.App))
	b = appendUint(b, 3, bit(m.Sent))
	return appendBytes(appendUint(b, 4, uint64(m.Length)), 5, m.Data)
}

func bit(v bool) uint64 {
	if v {
		return 1
	}
	return 0
}

// Match is tunmesh.tap.v1.Match.
type Match struct {
	Method, Scheme, Authority, PathPrefix string
	Peers                                 []string
	Direction                             string
}

func (m *Match) merge(b []byte) error {
	return each("Match", b, func(f field) error {
		switch f.num {
		case 1:
			return f.str(&m.Method)
		case 2:
			return f.str(&m.Scheme)
		case 3:
			return f.str(&m.Authority)
		case 4:
			return f.str(&m.PathPrefix)
		case 5:
			return f.strs(&m.Peers)
		case 6:
			return f.str(&m.Direction)
		}
		return nil
	})
}

// Field is tunmesh.tap.v1.Field.
type Field struct {
	Name  string
	Value []byte
}

// Append encodes m.
func (m *Field) Append(b []byte) []byte { return appendBytes(appendString(b, 1, m.Name), 2, m.Value) }

func appendFields(b []byte, num protowire.Number, fields []Field) []byte {
	for i := range fields {
		b = appendMessage(b, num, &fields[i])
	}
	return b
}

// Peer is tunmesh.tap.v1.Peer.
type Peer struct {
	IP     string
	Port   uint32
	Labels map[string]string
}

// Append encodes m.
func (m *Peer) Append(b []byte) []byte {
	b = appendUint(appendString(b, 1, m.IP), 2, uint64(m.Port))
	return appendMap(b, 3, m.Labels)
}

// Event is tunmesh.tap.v1.Event: one of Request, Response and End is set. The
// observer is filled in by the control plane.
type Event struct {
	Tap                 uint64
	Base                uint32
	Stream              uint64
	Direction           string
	Source, Destination Peer
	TLS                 string
	Route               map[string]string
	Request             *Request
	Response            *Response
	End                 *End
}

// Append encodes m.
func (m *Event) Append(b []byte) []byte {
	b = appendUint(b, 1, m.Tap)
	b = appendUint(b, 2, uint64(m.Base))
	b = appendUint(b, 3, m.Stream)
	b = appendString(b, 4, m.Direction)
	b = appendMessage(b, 5, &m.Source)
	b = appendMessage(b, 6, &m.Destination)
	b = appendString(b, 7, m.TLS)
	b = appendMap(b, 8, m.Route)
	switch {
	case m.Request != nil:
		b = appendMessage(b, 10, m.Request)
	case m.Response != nil:
		b = appendMessage(b, 11, m.Response)
	case m.End != nil:
		b = appendMessage(b, 12, m.End)
	}
	return b
}

// Request is tunmesh.tap.v1.Request.
type Request struct {
	Method, Scheme, Authority, Path string
	Headers                         []Field
}

// Append encodes m.
func (m *Request) Append(b []byte) []byte {
	b = appendString(b, 1, m.Method)
	b = appendString(b, 2, m.Scheme)
	b = appendString(b, 3, m.Authority)
	b = appendString(b, 4, m.Path)
	return appendFields(b, 5, m.Headers)
}

// Response is tunmesh.tap.v1.Response.
type Response struct {
	SinceRequestUS uint64
	Status         uint32
	Headers        []Field
}

// Append encodes m.
func (m *Response) Append(b []byte) []byte {
	b = appendUint(appendUint(b, 1, m.SinceRequestUS), 2, uint64(m.Status))
	return appendFields(b, 3, m.Headers)
}

// End is tunmesh.tap.v1.End; GRPCStatus and Reset are nil when absent.
type End struct {
	SinceRequestUS, SinceResponseUS, ResponseBytes uint64
	GRPCStatus, Reset                              *uint32
	Trailers                                       []Field
}

// Append encodes m.
func (m *End) Append(b []byte) []byte {
	b = appendUint(b, 1, m.SinceRequestUS)
	b = appendUint(b, 2, m.SinceResponseUS)
	b = appendUint(b, 3, m.ResponseBytes)
	if m.GRPCStatus != nil {
		b = appendPresent(b, 4, uint64(*m.GRPCStatus))
	}
	if m.Reset != nil {
		b = appendPresent(b, 5, uint64(*m.Reset))
	}
	return appendFields(b, 6, m.Trailers)
}
