package kube

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// maxEvents bounds the events that wait to be written; those beyond are counted.
	maxEvents = 256
	// eventRate and eventBurst bound what a mistake on a thousand pods costs the API
	// server.
	eventRate, eventBurst = 5, 50
	// sayAgain is how long the same is not said again of the same object.
	sayAgain = 10 * time.Minute
	// maxSaid bounds what is remembered for that.
	maxSaid = 4096
	// maxMessage is what the API server takes of an event's text.
	maxMessage = 1024
)

// Events writes warnings for people to find where they look for them. It never
// makes its callers wait.
type Events struct {
	client  Client
	source  string
	log     *slog.Logger
	now     func() time.Time
	queue   chan corev1.Event
	limit   *rate.Limiter
	said    map[string]time.Time // Run's
	dropped atomic.Uint64
	written atomic.Uint64
}

// NewEvents returns one whose events come from a component of that name.
func NewEvents(c Client, source string, log *slog.Logger) *Events {
	return &Events{
		client: c, source: source, log: log, now: time.Now, queue: make(chan corev1.Event, maxEvents),
		limit: rate.NewLimiter(eventRate, eventBurst), said: map[string]time.Time{},
	}
}

// Warn has a warning written about an object. What was said of it lately is not
// said again.
func (e *Events) Warn(about corev1.ObjectReference, reason, message string) {
	if len(message) > maxMessage {
		message = message[:maxMessage-len("…")] + "…"
	}
	now := metav1.NewTime(e.now())
	// The name says what it is about, so that replicas write one between them.
	sum := sha256.Sum256([]byte(about.Kind + "\x00" + about.Name + "\x00" + string(about.UID) + "\x00" + reason + "\x00" + message))
	select {
	case e.queue <- corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: about.Namespace, Name: "tunmesh." + hex.EncodeToString(sum[:10])},
		InvolvedObject: about, Reason: reason, Message: message, Type: corev1.EventTypeWarning,
		Source: corev1.EventSource{Component: e.source}, ReportingController: "tunmesh.io/" + e.source, ReportingInstance: e.source,
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}:
	default:
		e.dropped.Add(1)
	}
}

// Counts are the events that were written, and those that were not for want of
// room or because the API server took none.
func (e *Events) Counts() (written, dropped uint64) { return e.written.Load(), e.dropped.Load() }

// Run writes until ctx ends.
func (e *Events) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case ev := <-e.queue:
			if !e.news(ev.Namespace + "/" + ev.Name) {
				continue
			}
			if e.limit.Wait(ctx) != nil {
				return nil
			}
			e.write(ctx, ev)
		}
	}
}

// news remembers what is said, and reports whether it was not lately.
func (e *Events) news(key string) bool {
	now := e.now()
	if at, ok := e.said[key]; ok && now.Sub(at) < sayAgain {
		return false
	}
	if len(e.said) >= maxSaid {
		clear(e.said)
	}
	e.said[key] = now
	return true
}

func (e *Events) write(ctx context.Context, ev corev1.Event) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	events := e.client.CoreV1().Events(ev.Namespace)
	_, err := events.Create(ctx, &ev, metav1.CreateOptions{})
	if err != nil && ctx.Err() == nil {
		// It is there from another time or another replica: count it up.
		old, gerr := events.Get(ctx, ev.Name, metav1.GetOptions{})
		if gerr == nil {
			old.Count, old.LastTimestamp = old.Count+1, ev.LastTimestamp
			_, err = events.Update(ctx, old, metav1.UpdateOptions{})
		}
	}
	if err != nil {
		e.dropped.Add(1)
		e.log.Warn("event not written", "about", ev.InvolvedObject.Kind+" "+ev.Namespace+"/"+ev.InvolvedObject.Name, "message", ev.Message, "err", err)
		return
	}
	e.written.Add(1)
}
