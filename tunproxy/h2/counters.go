package h2

import "sync/atomic"

// Counters add up what connections met. Reading is safe from any goroutine.
type Counters struct {
	Streams  atomic.Uint64 // opened by either side
	Refused  atomic.Uint64 // opened by the peer beyond MaxStreams, or while draining
	Resets   atomic.Uint64 // RST_STREAM received
	Aborts   atomic.Uint64 // RST_STREAM sent
	Breaches atomic.Uint64 // streams that we reset because the peer broke a rule
	Oversize atomic.Uint64 // heads beyond MaxHeaderList
	Paused   atomic.Uint64 // turns that ended with more to parse

	// Streams that were reset, by the bound that they passed.
	SlowBodies  atomic.Uint64 // announced bytes did not come at MinRate
	SlowReaders atomic.Uint64 // a response was not read at MinRate
	Shed        atomic.Uint64 // held most while more was held than is free; or refused then

	// Connections that were closed, by the bound that closed them.
	ResetFloods        atomic.Uint64
	ControlFloods      atomic.Uint64
	EmptyFloods        atomic.Uint64
	ContinuationFloods atomic.Uint64
	Bombs              atomic.Uint64 // a head decodes to far more than MaxHeaderList
	ReplyFloods        atomic.Uint64 // the peer does not read its answers
	DeadPeers          atomic.Uint64 // no answer to a keepalive PING
	WriteStalls        atomic.Uint64
	SlowFrames         atomic.Uint64 // preface, SETTINGS, or a frame not whole in time
	ProtocolErrors     atomic.Uint64 // any other breach of the protocol
}
