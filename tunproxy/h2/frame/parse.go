package frame

import (
	"encoding/binary"

	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// SettingID names a setting.
type SettingID uint16

// The settings of section 6.5.2 and RFC 8441.
const (
	HeaderTableSize       SettingID = 0x1
	EnablePush            SettingID = 0x2
	MaxConcurrentStreams  SettingID = 0x3
	InitialWindowSize     SettingID = 0x4
	MaxFrameSize          SettingID = 0x5
	MaxHeaderListSize     SettingID = 0x6
	EnableConnectProtocol SettingID = 0x8
)

// Setting is one parameter of a SETTINGS frame.
type Setting struct {
	ID    SettingID
	Value uint32
}

// Check finds values that no endpoint may send.
func (s Setting) Check() error {
	switch s.ID {
	case EnablePush, EnableConnectProtocol:
		if s.Value > 1 {
			return Errorf(message.ProtocolError, "setting %#x is %d, not 0 or 1", uint16(s.ID), s.Value)
		}
	case InitialWindowSize:
		if s.Value > MaxWindow {
			return Errorf(message.FlowControlError, "initial window size %d above 2^31-1", s.Value)
		}
	case MaxFrameSize:
		if s.Value < MinMaxSize || s.Value > MaxMaxSize {
			return Errorf(message.ProtocolError, "max frame size %d outside 2^14..2^24-1", s.Value)
		}
	}
	return nil
}

// CheckHeader finds frames on a stream where their type has no business and
// payloads of a length that their type cannot have (sections 6.1 to 6.10). A
// PRIORITY frame of the wrong length is a matter of its stream, not found here.
func CheckHeader(h Header) error {
	switch h.Type {
	case Data, Headers, Priority, RSTStream, PushPromise, Continuation:
		if h.Stream == 0 {
			return Errorf(message.ProtocolError, "%v frame on stream 0", h.Type)
		}
	case Settings, Ping, GoAway:
		if h.Stream != 0 {
			return Errorf(message.ProtocolError, "%v frame on stream %d", h.Type, h.Stream)
		}
	}
	bad := false
	switch h.Type {
	case RSTStream, WindowUpdate:
		bad = h.Length != 4
	case Settings:
		bad = h.Length%6 != 0 || h.Flags.Has(Ack) && h.Length != 0
	case Ping:
		bad = h.Length != 8
	case GoAway:
		bad = h.Length < 8
	}
	if bad {
		return Errorf(message.FrameSizeError, "%v frame of %d bytes", h.Type, h.Length)
	}
	return nil
}

// SettingAt is the i-th setting of a SETTINGS payload of len(p)/6 settings.
func SettingAt(p []byte, i int) Setting {
	p = p[i*6 : i*6+6]
	return Setting{ID: SettingID(binary.BigEndian.Uint16(p)), Value: binary.BigEndian.Uint32(p[2:])}
}

// ParseData strips padding from a whole DATA payload.
func ParseData(h Header, p []byte) ([]byte, error) { return unpad(h, p) }

// ParseHeaders strips padding and the priority fields (which are ignored but
// for a stream that depends on itself) from a HEADERS payload.
func ParseHeaders(h Header, p []byte) (fragment []byte, dependsOn uint32, err error) {
	if p, err = unpad(h, p); err != nil {
		return nil, 0, err
	}
	if h.Flags.Has(HasPriority) {
		if len(p) < 5 {
			return nil, 0, Errorf(message.FrameSizeError, "HEADERS frame of %d bytes is too short for its priority", h.Length)
		}
		dependsOn = binary.BigEndian.Uint32(p) & MaxStreamID
		p = p[5:]
	}
	return p, dependsOn, nil
}

func unpad(h Header, p []byte) ([]byte, error) {
	if !h.Flags.Has(Padded) {
		return p, nil
	}
	if len(p) < 1 {
		return nil, Errorf(message.FrameSizeError, "padded %v frame without a pad length", h.Type)
	}
	pad := int(p[0])
	if pad > len(p)-1 {
		return nil, Errorf(message.ProtocolError, "%v frame of %d bytes padded with %d", h.Type, h.Length, pad)
	}
	return p[1 : len(p)-pad], nil
}

// ParseCode is the error code of an RST_STREAM payload.
func ParseCode(p []byte) message.Code { return message.Code(binary.BigEndian.Uint32(p)) }

// ParseWindow is the increment of a WINDOW_UPDATE payload; 0 is an error of
// the stream or connection that it is for.
func ParseWindow(p []byte) uint32 { return binary.BigEndian.Uint32(p) & MaxWindow }

// ParsePing is the payload of a PING.
func ParsePing(p []byte) uint64 { return binary.BigEndian.Uint64(p) }

// ParseGoAway takes a GOAWAY payload apart; debug aliases p.
func ParseGoAway(p []byte) (lastStream uint32, code message.Code, debug []byte) {
	return binary.BigEndian.Uint32(p) & MaxStreamID, message.Code(binary.BigEndian.Uint32(p[4:])), p[8:]
}

// ParseDependency is the stream that a PRIORITY payload of 5 bytes names.
func ParseDependency(p []byte) uint32 { return binary.BigEndian.Uint32(p) & MaxStreamID }
