package peer

import (
	"slices"
	"time"
)

// Two daemons with one key, as where a machine was cloned with its state, take the session with every peer from each other: a process that was
// replaced comes back. One that was restarted never does.

const (
	twinsWithin  = time.Minute // what is longer ago is forgotten
	twinsReturns = 3           // so often within that time a process comes back before it is said
)

// twins is which processes had the session with one peer of late.
type twins struct {
	seen    []sighting // the latest last
	returns []time.Time
}

type sighting struct {
	instance string
	address  string
	at       time.Time // when it was last there
}

// note takes in who has the session now, and returns the addresses of two processes that take it from each other, nil if none do.
func (t *twins) note(now sighting) []string {
	long := func(at time.Time) bool { return now.at.Sub(at) > twinsWithin }
	if len(t.seen) > 0 {
		t.seen[len(t.seen)-1].at = now.at // it was there until now, as far as anybody could tell
	}
	t.seen = slices.DeleteFunc(t.seen, func(s sighting) bool { return long(s.at) })
	t.returns = slices.DeleteFunc(t.returns, long)
	if len(t.seen) > 0 && t.seen[len(t.seen)-1].instance != now.instance && t.has(now.instance) {
		t.returns = append(t.returns, now.at)
	}
	t.seen = append(slices.DeleteFunc(t.seen, func(s sighting) bool { return s.instance == now.instance }), now)
	if len(t.returns) < twinsReturns || len(t.seen) < 2 {
		return nil
	}
	both := []string{t.seen[len(t.seen)-2].address, now.address}
	slices.Sort(both) // so that it reads the same every time
	return both
}

func (t *twins) has(instance string) bool {
	return slices.ContainsFunc(t.seen, func(s sighting) bool { return s.instance == instance })
}
