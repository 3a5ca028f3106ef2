package agent

import (
	"context"
	"time"

	"certswarm/internal/control"
)

const (
	chroniclePause    = 500 * time.Millisecond // changes closer than this count as one
	chronicleInterval = 10 * time.Second       // for what becomes true by the clock alone
)

// Chronicle implements control.Chronicler.
func (a *Agent) Chronicle() *control.Chronicle { return a.events }

// keepChronicle notes what changes in the status, until ctx ends. What is said of a house that was left does not count.
func (a *Agent) keepChronicle(ctx context.Context) {
	tick := time.NewTicker(chronicleInterval)
	defer tick.Stop()
	var before control.Status
	for {
		changed := a.changed.wait()
		h := a.house.Load()
		if now := a.Status(); !h.left.Load() && ctx.Err() == nil {
			a.events.Note(control.Happened(before, now)...)
			before = now
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-tick.C:
		}
		if !pause(ctx, chroniclePause) {
			return
		}
	}
}
