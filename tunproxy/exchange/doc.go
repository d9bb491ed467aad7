// Package exchange is one HTTP request and its response on their way through a
// sidecar: it joins the stream on which a client's request came in with the one
// on which it goes to an endpoint, whatever versions these speak. It owns what
// happens when an endpoint turns the request down, when a side breaks, and what
// observers hear; it refuses to know how endpoints are found (Opener), how
// bytes look on a wire (message.Stream) and who counts (Observer).
//
//  1. The downstream stream delivers a request head; the exchange keeps it.
//  2. Opener finds an endpoint and a stream to it, now or later. Body that comes
//     meanwhile is held, at most the stream's receive window.
//  3. Head, held body and whatever follows go up. While the request can still
//     turn out undelivered, the body's first 64 KiB are kept.
//  4. If it is provably undelivered (message.Stream.Delivered is false), Opener
//     is asked for another endpoint; the client notices nothing.
//     The same happens after a bad answer, or none in time, where the target's
//     owner asked for it (Terms).
//  5. The response goes down as it comes. After its head nothing is repeated.
//  6. When both directions ended, or one side broke, the endpoint and the
//     observers hear how it went.
//
// The states of an exchange:
//
//	opening ──Opened──▶ sent ──response head──▶ responding ──both ended──▶ over
//	   ▲                 │                          │
//	   └──undelivered────┘                          ├─upstream broke: reset, or gRPC trailers
//	opening ──Failed──▶ answered by the sidecar ────┴─downstream broke: upstream aborted
//
// Everything runs on the loop that owns both connections.
package exchange
