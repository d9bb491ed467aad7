// Package admission answers the API server's question about each new pod: it is
// the injector as a mutating webhook. It owns the wire of that question and the
// words that go with the answer. It refuses to know what an injected pod looks
// like (control/inject), where namespaces come from, and what it is served with
// (control/serving).
//
// A pod that the mesh cannot take is never refused here: it is created as it
// came, and said so by a warning to who made it and an event on its owner. What
// asked for a sidecar by itself and has none is refused on its node.
package admission
