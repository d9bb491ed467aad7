// Package tap shows requests as they pass to somebody who watches. It owns
// matching, the rate limit and the queue of each tap, and the stream to the
// control plane; it refuses to know who may watch (the control plane does) and
// how requests flow: the proxy calls Begin, Response and End.
//
// A tap that nobody watches costs one atomic load per request. One that is
// watched never slows traffic: what does not fit is counted and dropped, and
// the watcher is told how many events are missing.
//
// On the same stream the control plane may ask for the sidecar's connections, as
// they are at that moment (Command.ask); the answer comes in parts.
package tap
