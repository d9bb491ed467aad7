package exchange

import (
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// A Critic is an Endpoint that wants to know more of requests under terms.
type Critic interface {
	// Answered: x's current attempt has an answer that is not a failure, though
	// maybe not all of it. It is called once for an attempt, or not at all.
	Answered(x *Exchange)
	// Judge is called instead of Ended.
	Judge(x *Exchange, a Attempt)
}

// Attempt is how an attempt went.
type Attempt struct {
	Outcome Outcome
	// Wait is the time to the response's head, or for how long there was none.
	Wait time.Duration
	// RetryAfter is for how long the endpoint asked to be left alone.
	RetryAfter time.Duration
}

// answer is what a guard noted of the current attempt's.
type answer struct {
	told  bool
	after time.Duration
}

// note takes in a response's head. g may be nil.
func (g *guard) note(h *message.Head) {
	if g != nil {
		g.answer.after = g.after(h)
	}
}

// answers tells the endpoint of an answer that is none of failure. g may be nil.
func (g *guard) answers() {
	if g == nil || g.answer.told {
		return
	}
	g.answer.told = true
	if c, ok := g.x.endpoint.(Critic); ok {
		c.Answered(g.x)
	}
}

// judge tells the endpoint how an attempt went; it reports false for one that does
// not want to know more than others. g may be nil.
func (g *guard) judge(o Outcome, wait time.Duration) bool {
	if g == nil {
		return false
	}
	a := g.answer
	g.answer = answer{}
	c, ok := g.x.endpoint.(Critic)
	if ok {
		c.Judge(g.x, Attempt{Outcome: o, Wait: wait, RetryAfter: a.after})
	}
	return ok
}
