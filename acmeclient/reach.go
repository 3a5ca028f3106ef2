package acmeclient

import (
	"sync"
	"time"
)

// Reach is how the way from this node to the CA is. Whatever the CA answers is an answer: any other node would get the same.
type Reach struct {
	Answered time.Time // when the CA last answered anything; zero: it has not yet
	Since    time.Time // when the first of the attempts in a row began in which it answered nothing; zero: there is none
	Last     time.Time // when the last of them ended
	Tries    int       // how many there were, of the certificate that has most of them
	Error    string    // of the last one
}

// reach follows the requests and the attempts of one Client.
type reach struct {
	mu         sync.Mutex
	known      Reach          // guarded by mu
	tries      map[string]int // guarded by mu: by certificate, since known.Since
	unanswered time.Time      // guarded by mu: when a request last was not
}

// Reach tells how the way to the CA is; Changed tells when to ask again.
func (c *Client) Reach() Reach {
	c.reach.mu.Lock()
	defer c.reach.mu.Unlock()
	return c.reach.known
}

// heard takes in whether a request was answered.
func (r *reach) heard(answered bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); answered {
		r.known, r.tries = Reach{Answered: now}, nil
	} else {
		r.unanswered = now
	}
}

// missed takes in that the attempt at a certificate which began then has failed, and reports whether that is because the CA, which was asked, has
// answered nothing since, to no other attempt either.
func (r *reach) missed(name string, begun time.Time, err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.known.Answered.Before(begun) || r.unanswered.Before(begun) {
		return false
	}
	if r.known.Since.IsZero() {
		r.known.Since, r.tries = begun, map[string]int{}
	}
	r.tries[name]++
	r.known.Tries = max(r.known.Tries, r.tries[name])
	r.known.Last, r.known.Error = time.Now(), err.Error()
	return true
}
