package h1

import (
	"errors"
	"fmt"
	"time"
)

// Config bounds a connection. The zero value of a field is its default.
type Config struct {
	// MaxHead is the size of a head or a trailer section in bytes; 64 KiB.
	// More is 431 (or 414, when it is the request line that is long).
	MaxHead int
	// MaxFields is the number of fields in a head or trailer section; 128.
	MaxFields int
	// Window is how many body bytes a stream delivers ahead of Consumed; 64 KiB.
	Window int

	// HeadTimeout is from a head's first byte to its last; 10 s. A client that
	// exceeds it gets 408.
	HeadTimeout time.Duration
	// BodyTimeout is how long a server waits for the next chunk of a body that it
	// is ready to read; 5 min, because streaming uploads may pause.
	BodyTimeout time.Duration
	// MinRate is how slow a peer may be where it keeps us waiting, in bytes per
	// second; 240. It counts once a peer is behind by SlowBody or WriteTimeout.
	MinRate int
	// SlowBody is how far a request body that was announced, by Content-Length or
	// as a chunk, may fall behind MinRate; 30 s.
	SlowBody time.Duration
	// WriteTimeout is how far a peer may fall behind MinRate in taking what waits
	// for it; 5 min. Bytes of another protocol, after an Upgrade, wait for ever.
	WriteTimeout time.Duration
	// IdleTimeout closes a connection without a request. A server's default is
	// 1 h, because the app's client decides when a connection is of no more use;
	// a client's is 3 s (Linkerd's), below the keep-alive of common servers (5 s)
	// so that a request seldom meets a connection that is just being closed.
	IdleTimeout time.Duration

	// Scheme of requests in origin form; "http".
	Scheme string

	// Buffers is memory shared by the connections of one loop; nil: its own,
	// which is for tests.
	Buffers *Buffers

	// Counters add up what connections met; any number may share them. Nil:
	// counted for nobody.
	Counters *Counters
	// Refused hears of each message that was refused, for metrics; may be nil.
	Refused func(*Error)
	// OnIdle says that a client may open a stream again; may be nil.
	OnIdle func()
	// OnClose is called once, from the loop's pass, when the connection is over;
	// err is nil after an orderly end. May be nil.
	OnClose func(err error)
}

const (
	defaultMaxHead       = 64 << 10
	defaultMaxFields     = 128
	defaultWindow        = 64 << 10
	defaultHeadTimeout   = 10 * time.Second
	defaultBodyTimeout   = 5 * time.Minute
	defaultMinRate       = 240
	defaultSlowBody      = 30 * time.Second
	defaultWriteTimeout  = 5 * time.Minute
	defaultServerIdle    = time.Hour
	defaultClientIdle    = 3 * time.Second
	tightWindow          = 16 << 10        // of a stream, while much is held
	lingerTimeout        = 2 * time.Second // for a refused client to read why
	lingerBytes          = 256 << 10       // that it may send meanwhile
	maxInformational     = 64              // 1xx responses before the final one
	maxEmptyLines        = 4               // before a request line (RFC 9112, section 2.2)
	maxPipelinedOut      = 64 << 10        // unsent response bytes that stop the next request
	maxExtensionsPerBody = 16 << 10        // bytes of chunk extensions
)

func (c Config) withDefaults(idle time.Duration) Config {
	setInt(&c.MaxHead, defaultMaxHead)
	setInt(&c.MaxFields, defaultMaxFields)
	setInt(&c.Window, defaultWindow)
	setDuration(&c.HeadTimeout, defaultHeadTimeout)
	setDuration(&c.BodyTimeout, defaultBodyTimeout)
	setDuration(&c.WriteTimeout, defaultWriteTimeout)
	setInt(&c.MinRate, defaultMinRate)
	setDuration(&c.SlowBody, defaultSlowBody)
	setDuration(&c.IdleTimeout, idle)
	if c.Scheme == "" {
		c.Scheme = "http"
	}
	if c.Buffers == nil {
		c.Buffers = NewBuffers()
	}
	if c.Counters == nil {
		c.Counters = new(Counters)
	}
	return c
}

func setInt(p *int, d int) {
	if *p <= 0 {
		*p = d
	}
}

func setDuration(p *time.Duration, d time.Duration) {
	if *p <= 0 {
		*p = d
	}
}

// Errors of OpenStream.
var (
	// ErrBusy: the connection has an exchange under way.
	ErrBusy = errors.New("open stream: connection has an exchange under way")
	// ErrGone: the connection is over, or takes no more requests.
	ErrGone = errors.New("open stream: connection is closed")
)

// Errors with which streams are aborted, besides the transport's.
var (
	// ErrTruncated: the peer ended the connection inside a message.
	ErrTruncated = errors.New("connection ended inside a message")
	// ErrUnanswered: the server ended a connection on which it had answered
	// before, with a request sent and nothing of its response come. It may have
	// closed an idle connection just then: an idempotent request may be sent
	// again (RFC 9110, section 9.2.2; RFC 9112, section 9.3.1).
	ErrUnanswered = errors.New("the server closed a kept connection before it answered")
	// ErrMemory: too many bytes wait for peers that are slow, and this one is.
	ErrMemory = errors.New("too many bytes wait for peers that do not read")
	// ErrTimeout: a deadline of Config passed.
	ErrTimeout = errors.New("http/1 peer made no progress in time")
	// ErrUnsendable: a head that HTTP/1 can't carry, or a body that is not what
	// its head says. Nothing of such a head was written.
	ErrUnsendable = errors.New("message can't be sent over http/1")
)

// Error is a message that was refused.
type Error struct {
	// Status of the response that a server makes of it.
	Status int
	// Reason in a few words, constant per cause: usable as a label.
	Reason string
}

func (e *Error) Error() string { return fmt.Sprintf("refuse http/1 message: %s", e.Reason) }
