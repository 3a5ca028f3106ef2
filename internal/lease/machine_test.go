package lease_test

import (
	"slices"
	"time"

	"certswarm/internal/fleet"
	"certswarm/internal/lease"
	"certswarm/internal/lease/rules"
)

// cable is one life's network.
type cable struct {
	m    *machine
	life int
}

// Send implements lease.Network.
func (c *cable) Send(to fleet.NodeID, message []byte) {
	w := c.m.w
	c.m.pause()
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.machines, func(m *machine) bool { return m.id == to })
	if i < 0 || c.m.life != c.life {
		return
	}
	c.m.sent++
	target := w.machines[i]
	since, linked := c.m.links[i]
	if !linked || w.dropped[[2]int{c.m.n, i}] || c.m.luck.Float64() < w.loss {
		return
	}
	delay := w.latency + time.Duration(c.m.luck.Int64N(int64(w.latency)+1))
	if w.latency > 100*time.Millisecond && c.m.luck.IntN(20) == 0 {
		delay *= 3 // overtaken
	}
	engine := target.raft
	if c.m.later {
		message = inLaterWords(w.t, message)
	}
	time.AfterFunc(delay, func() {
		w.mu.Lock()
		still := target.links[c.m.n].Equal(since) && target.raft == engine && engine != nil && !w.dropped[[2]int{c.m.n, i}]
		w.mu.Unlock()
		if still {
			engine.Deliver(c.m.id, message)
		}
	})
}

func (m *machine) sentSoFar() int {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	return m.sent
}

// Peers implements lease.Network.
func (c *cable) Peers() []lease.Peer {
	c.m.pause()
	c.m.w.mu.Lock()
	defer c.m.w.mu.Unlock()
	var out []lease.Peer
	if c.m.life != c.life {
		return nil
	}
	for i, since := range c.m.links {
		other := c.m.w.machines[i]
		out = append(out, lease.Peer{ID: other.id, Since: since, List: other.digest})
	}
	return out
}

// clock is the machine's: everything that a stopped process does stands still here.
func (m *machine) clock() rules.Moment {
	m.pause()
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	return rules.Moment{Boot: now.Sub(time.Date(1999, 12, 31, 0, 0, 0, 0, time.UTC)), Wall: now.Add(m.wall).Round(0)}
}

func (m *machine) pause() {
	for {
		m.mu.Lock()
		frozen := m.frozen
		m.mu.Unlock()
		if frozen == nil {
			return
		}
		<-frozen
	}
}

// freeze stops the process as SIGSTOP does.
func (m *machine) freeze() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.frozen == nil {
		m.frozen = make(chan struct{})
	}
}

func (m *machine) thaw() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.frozen != nil {
		close(m.frozen)
		m.frozen = nil
	}
}

func (m *machine) setWall(wrong time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wall = wrong
}
