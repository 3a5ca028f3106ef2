package nginx

import (
	"context"
	"sync"
	"time"
)

const (
	// Workers that were told to go still accept for 100 to 130 ms after a reload: asking earlier proves nothing.
	settleTime = 250 * time.Millisecond
	// Then so many handshakes in a row must show the same: one alone may have met the only worker that is new.
	inARow = 3

	betweenProbes  = 20 * time.Millisecond  // while it is current
	betweenRetries = 100 * time.Millisecond // while it is not

	confirmTime          = 10 * time.Second // for all targets together, and
	confirmTimePerTarget = 50 * time.Millisecond

	probesAtOnce = 8
)

// asker makes handshakes, a bounded number at a time.
type asker struct {
	dial  Dial
	slots chan struct{}
}

// ask puts every question in one of the two ways of asker and returns the answers in the order of the targets.
func (n *Nginx) ask(ctx context.Context, targets []target, how func(asker, context.Context, target) Served) []Served {
	a := asker{dial: n.config.Dial, slots: make(chan struct{}, probesAtOnce)}
	answers := make([]Served, len(targets))
	var all sync.WaitGroup
	for i, t := range targets {
		all.Go(func() { answers[i] = how(a, ctx, t) })
	}
	all.Wait()
	return answers
}

// once asks one time.
func (a asker) once(ctx context.Context, t target) Served {
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
		return t.probe(ctx, a.dial)
	case <-ctx.Done():
		return t.judge(nil, ctx.Err())
	}
}

// untilSettled asks until the answer stands, or ctx ends; then the last answer counts.
func (a asker) untilSettled(ctx context.Context, t target) Served {
	var last Served
	for row := 0; ; {
		now := a.once(ctx, t)
		if ctx.Err() != nil && last.State != "" {
			break // this one was cut short: it says nothing
		}
		if now.State != last.State {
			row = 0
		}
		last = now
		row++
		pause := betweenRetries
		if last.State == Current || last.State == Unverified {
			if row == inARow {
				return last
			}
			pause = betweenProbes
		}
		select {
		case <-time.After(pause):
			continue
		case <-ctx.Done():
		}
		break
	}
	if last.State == Current {
		last.State, last.Detail = Stale, "it shows the certificate only now and then: some workers still answer with another one"
	}
	return last
}
