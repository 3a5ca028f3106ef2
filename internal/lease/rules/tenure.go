package rules

import "time"

// Moment is one instant on two clocks. Each can lie in its own way: the clock since boot may run at a wrong rate, the wall clock
// may be set; a right that is good on both is good.
type Moment struct {
	Boot time.Duration // since the machine started; goes on while it is suspended
	Wall time.Time     // without a monotonic part
}

// Tenure is a right to act. It is counted from the moment before its last committed renewal was proposed: whatever
// the commit took is lost to the holder, never to its successor.
type Tenure struct {
	From Moment
	TTL  time.Duration
}

// age is how long ago From was, on the clock that says longer.
func (t Tenure) age(now Moment) time.Duration {
	return max(now.Boot-t.From.Boot, now.Wall.Sub(t.From.Wall))
}

// Left is for how long no step need be feared; 0 or less: MayAct says no.
func (t Tenure) Left(now Moment) time.Duration { return t.TTL*8/10 - t.age(now) }

// MayAct reports whether a step that cannot be taken back may be taken. The 20 % that are kept back are for clocks that run at
// different rates and for the way to the CA.
func (t Tenure) MayAct(now Moment) bool { return t.Left(now) > 0 }

// MayBegin reports whether new work may be started: the last renewals went through.
func (t Tenure) MayBegin(now Moment) bool { return t.age(now) < t.TTL*2/3 }

// Over reports whether others may be acting already. A wall clock that was set forward ends the right at once, but not this: the
// next renewal brings it back.
func (t Tenure) Over(now Moment) bool { return now.Boot-t.From.Boot >= t.TTL }

// RenewEvery is how often a holder proposes a renewal.
func RenewEvery(ttl time.Duration) time.Duration { return ttl / 3 }

// The consensus counts ticks. With a ttl of 30 s a tick is half a second, and a leader that is silent for 5 to 10 s is replaced.
const (
	ElectionTicks  = 10
	HeartbeatTicks = 2
)

// Tick returns how long a tick is: an election timeout is a sixth of the ttl.
func Tick(ttl time.Duration) time.Duration { return ttl / (6 * ElectionTicks) }
