package syncer

import (
	"slices"
	"testing"
	"time"

	"certswarm/syncer/index"
)

func TestPostponedPathsKeepTheirTimesWhateverElseHappens(t *testing.T) {
	now := time.Unix(1000, 0)
	busy, draft := index.MustPath("a.pem"), index.MustPath(".a.pem.new")
	p := postponed{}
	if _, some := p.next(now); some {
		t.Error("something is due although nothing was postponed")
	}
	p.again(busy, now)
	p.leave(draft, now)
	p.leave(draft, now.Add(patience/2)) // more news does not begin the wait anew
	if wait, some := p.next(now); !some || wait != retryFirst {
		t.Errorf("the first look is due after %v, %v", wait, some)
	}
	if got := p.due(now.Add(retryFirst)); !slices.Equal(got, []index.Path{busy}) {
		t.Errorf("due after %v: %v", retryFirst, got)
	}
	if got := p.due(now.Add(patience)); !slices.Equal(got, []index.Path{draft, busy}) {
		t.Errorf("due after %v: %v", patience, got)
	}
}

func TestPostponedPathsAreLookedAtMoreAndMoreSeldom(t *testing.T) {
	now := time.Unix(1000, 0)
	path := index.MustPath("a.pem")
	p := postponed{}
	var waits []time.Duration
	for range 8 {
		p.again(path, now)
		wait, _ := p.next(now)
		waits = append(waits, wait/time.Millisecond)
		now = now.Add(wait)
	}
	if want := []time.Duration{1, 2, 4, 8, 16, 32, 50, 50}; !slices.Equal(waits, want) {
		t.Errorf("waits of %v ms, not %v", waits, want)
	}
	for range 400 {
		p.again(path, now)
		wait, _ := p.next(now)
		now = now.Add(wait)
	}
	p.again(path, now)
	if wait, _ := p.next(now); wait != retrySeldom {
		t.Errorf("what stays open is looked at every %v", wait)
	}
}

func TestNamesThatLookUnfinished(t *testing.T) {
	for name, want := range map[string]bool{
		".a.pem": true, "a.pem.tmp": true, "a.tmp123": true, "a~": true, "#a#": true, "a.swp": true, "a.new": true,
		"a.pem": false, "privkey.pem": false, "a.key": false, "template": false, "new": false,
	} {
		if got := looksUnfinished(name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
