package rules

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"certswarm/internal/fleet"
)

// The budget of break-glass for one set of names.
const (
	GlassOrdersPerDay    = 1
	GlassOrdersPerWeek   = 2
	GlassFailuresPerHour = 1

	day  = 24 * time.Hour
	week = 7 * day
)

const (
	rankDelay  = time.Minute      // between the ranks where the turns of all have come, or there is no certificate at all
	deferDelay = 10 * time.Minute // what a reachable node that ranks higher gets then
	askedFresh = time.Minute      // for how long an answer of the peers counts
)

// Case is one set of names for which somebody without the lease might have to order.
type Case struct {
	Names []string // in any order

	NotAfter time.Time     // of the certificate in force; zero: there is none
	Due      time.Duration // how much of its life is left when it would be renewed in peace

	Issuers   []fleet.NodeID // of the peer list, in its order
	Self      fleet.NodeID
	Reachable []fleet.NodeID // of the issuers
	Voters    int            // how many vote; fewer than three is a pair, which ranks by the list

	// Silent is since when nobody knows of a renewal of the lease: not this node, and no peer it can ask.
	Silent time.Time
	After  time.Duration // how long that must last

	Orders   []time.Time // of break-glass for these names, on this node's own disk
	Failures []time.Time // failed validations of these orders

	Asked time.Time // when every reachable peer and the public name were last asked for a newer certificate; zero: never
	Newer bool      // there was one
}

// Answer says what to do about a case.
type Answer string

// The answers.
const (
	Leave Answer = "leave" // nothing, until the case is another one
	Later Answer = "later" // look again at Verdict.At
	Ask   Answer = "ask"   // find out whether somebody was faster, and come back
	Order Answer = "order" // write it down, then order
)

// Verdict is what becomes of a case.
type Verdict struct {
	Answer Answer
	At     time.Time // of Later
	Why    string
}

// JudgeGlass decides whether a certificate may be ordered without the lease. It says Order only when the name would expire otherwise,
// it is this node's turn, nobody was faster, and the budget is not used up.
func JudgeGlass(c Case, now time.Time) Verdict {
	rank := slices.Index(c.order(), c.Self)
	if rank < 0 {
		return Verdict{Answer: Leave, Why: "this node does not issue"}
	}
	if c.Newer && fresh(c.Asked, now) {
		return Verdict{Answer: Later, At: c.Asked.Add(askedFresh), Why: "somebody has a newer certificate already"}
	}
	at := c.turn(rank, now)
	if at.After(now) {
		return Verdict{Answer: Later, At: at, Why: fmt.Sprintf("the turn of this node, %d of %d, comes then", rank+1, len(c.Issuers))}
	}
	if at := c.affordable(now); at.After(now) {
		return Verdict{Answer: Later, At: at, Why: "the budget of break-glass for these names is used up until then"}
	}
	if !fresh(c.Asked, now) {
		return Verdict{Answer: Ask, Why: "somebody may have been faster"}
	}
	return Verdict{Answer: Order, Why: fmt.Sprintf("no lease was renewed since %s, and the certificate would expire", c.Silent.UTC().Format(time.RFC3339))}
}

// order ranks the issuers for these names: by rendezvous, so that the names of a fleet are spread over its nodes. A pair goes by its
// list: the understudy is always the same.
func (c Case) order() []fleet.NodeID {
	out := slices.Clone(c.Issuers)
	if c.pair() {
		return out
	}
	key := Key(c.Names)
	score := func(id fleet.NodeID) [32]byte { return sha256.Sum256(append([]byte(key+"\x00"), id[:]...)) }
	slices.SortFunc(out, func(a, b fleet.NodeID) int {
		x, y := score(a), score(b)
		return cmp.Or(bytes.Compare(x[:], y[:]), a.Compare(b))
	})
	return out
}

// Key names a set of names, in whatever order and case they come.
func Key(names []string) string {
	var lower []string
	for _, name := range names {
		lower = append(lower, strings.ToLower(name))
	}
	slices.Sort(lower)
	return strings.Join(slices.Compact(lower), " ")
}

func (c Case) pair() bool { return c.Voters < 3 }

// turn is when a rank may order. Alone, the ranks are spread between the urgency U and a last chance L = U/4, so that even the last one
// acts in time from an island. Where the lease was lost when all that is over, the ranks follow each other at once, within half of what is left: two that
// asked each other at one moment would both hear that nobody orders. A node that reaches somebody of a higher rank leaves it to that one until L; it does not leave it the rest, because
// whoever can be reached may still be unable to reach the CA.
func (c Case) turn(rank int, now time.Time) time.Time {
	first := !slices.ContainsFunc(c.order()[:rank], func(id fleet.NodeID) bool { return slices.Contains(c.Reachable, id) })
	begin, delay := c.Silent.Add(c.After), rankDelay
	if !first {
		delay = deferDelay
	}
	if c.NotAfter.IsZero() || !c.NotAfter.After(now) {
		return begin.Add(time.Duration(rank) * delay)
	}
	if half := c.NotAfter.Sub(begin) / 2; half > 0 {
		begin = begin.Add(time.Duration(rank) * min(delay, half/time.Duration(len(c.Issuers))))
	}
	urgent := c.Due / 2
	if c.pair() {
		urgent = c.Due * 9 / 10
	}
	last := urgent / 4
	left := urgent
	switch {
	case !first:
		left = last - time.Duration(rank)*(last/2)/time.Duration(len(c.Issuers))
	case rank > 0:
		left = urgent - time.Duration(rank)*(urgent-last)/time.Duration(len(c.Issuers)-1)
	}
	return latest(begin, c.NotAfter.Add(-left))
}

// affordable is when the budget allows the next order.
func (c Case) affordable(now time.Time) time.Time {
	return latest(
		free(c.Orders, GlassOrdersPerDay, day, now),
		free(c.Orders, GlassOrdersPerWeek, week, now),
		free(c.Failures, GlassFailuresPerHour, time.Hour, now))
}

// free is when fewer than most of past lie within the window. A time in the future, from before a clock was set back, counts as now.
func free(past []time.Time, most int, window time.Duration, now time.Time) time.Time {
	var recent []time.Time
	for _, at := range past {
		if at.After(now) {
			at = now
		}
		if now.Sub(at) < window {
			recent = append(recent, at)
		}
	}
	if len(recent) < most {
		return time.Time{}
	}
	slices.SortFunc(recent, time.Time.Compare)
	return recent[len(recent)-most].Add(window)
}

func fresh(asked, now time.Time) bool {
	return !asked.IsZero() && !asked.After(now) && now.Sub(asked) < askedFresh
}

func latest(times ...time.Time) time.Time { return slices.MaxFunc(times, time.Time.Compare) }
