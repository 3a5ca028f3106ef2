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

// What cannot be read is not looked at more often because somebody looks at it meanwhile; what is soon to be looked at anyway is not put off.
func TestWhatCannotBeReadIsLookedAtSeldom(t *testing.T) {
	now := time.Unix(1000, 0)
	path, other := index.MustPath("a.pem"), index.MustPath("b.pem.new")
	unread := map[index.Path]bool{path: true}
	p := postponed{}
	var waits []time.Duration
	p.keepUnread(unread, now)
	for range 8 {
		wait, _ := p.next(now)
		waits = append(waits, wait/time.Second)
		now = now.Add(wait)
		p.keepUnread(unread, now) // by somebody else, in the moment in which it is due
		if got := p.due(now); !slices.Equal(got, []index.Path{path}) {
			t.Errorf("after %v: %v", wait, got)
		}
		p.stillUnread(path, now)
	}
	if want := []time.Duration{1, 2, 4, 8, 16, 32, 60, 60}; !slices.Equal(waits, want) {
		t.Errorf("waits of %v s, not %v", waits, want)
	}
	p.keepUnread(unread, now)
	p.again(path, now) // it can be read, and is being written
	p.keepUnread(unread, now)
	if wait, _ := p.next(now); wait != retryFirst {
		t.Errorf("what is being written is looked at after %v", wait)
	}
	p.keepUnread(nil, now)
	if wait, some := p.next(now); !some || wait != retryFirst {
		t.Error("what is being written is forgotten")
	}
	p = postponed{}
	p.keepUnread(map[index.Path]bool{path: true, other: true}, now)
	p.leave(other, now) // there is news of it
	if wait, _ := p.next(now); wait != patience {
		t.Errorf("it is news after %v", wait)
	}
	p.keepUnread(nil, now)
	if got := p.due(now.Add(time.Hour)); !slices.Equal(got, []index.Path{other}) {
		t.Errorf("what was read is to be looked at again: %v", got)
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
