package syncer

import (
	"cmp"
	"path"
	"slices"
	"strings"
	"time"

	"certswarm/syncer/index"
	"certswarm/syncer/pairs"
)

// What cannot be looked at yet is looked at again after retryFirst, then after twice as long each time, up to retryLast; and what has taken long already, up
// to retrySeldom: a log that somebody keeps open, say.
const (
	retryFirst  = time.Millisecond
	retryLast   = 50 * time.Millisecond
	retrySeldom = 2 * time.Second
)

// patience is for how long a new file under a name that programs use for unfinished files is left alone: it is usually about to
// be renamed to what it is for.
const patience = 100 * time.Millisecond

func looksUnfinished(name string) bool {
	if name[0] == '.' || name[0] == '#' || strings.HasSuffix(name, "~") || strings.Contains(name, ".tmp") {
		return true
	}
	switch path.Ext(name) {
	case ".new", ".part", ".partial", ".temp", ".swp", ".swx", ".bak":
		return true
	}
	return false
}

// postponed is the paths that are to be looked at again, each at its own time whatever else happens meanwhile.
type postponed map[index.Path]appointment

type appointment struct {
	at    time.Time
	delay time.Duration // since the last look; 0 before the first
	since time.Time     // of the first look
}

// leave gives a path its time to become something else; more news of it changes nothing.
func (p postponed) leave(path index.Path, now time.Time) {
	if _, known := p[path]; !known {
		p[path] = appointment{at: now.Add(patience)}
	}
}

// again makes the next appointment for a path that was looked at too early.
func (p postponed) again(path index.Path, now time.Time) {
	last := p[path]
	if last.since.IsZero() {
		last.since = now
	}
	most := retryLast
	if now.Sub(last.since) > 5*pairs.Patience {
		most = retrySeldom
	}
	delay := min(max(2*last.delay, retryFirst), most)
	p[path] = appointment{now.Add(delay), delay, last.since}
}

// at makes the next appointment for a path.
func (p postponed) at(path index.Path, when time.Time) { p[path] = appointment{at: when} }

// due returns the paths whose time has come; they stay until they are done or postponed again.
func (p postponed) due(now time.Time) []index.Path {
	var out []index.Path
	for path, a := range p {
		if !now.Before(a.at) {
			out = append(out, path)
		}
	}
	slices.SortFunc(out, func(a, b index.Path) int { return cmp.Compare(a.String(), b.String()) })
	return out
}

// next returns how long it is until something is due; false if nothing ever is.
func (p postponed) next(now time.Time) (time.Duration, bool) {
	first, some := time.Duration(0), false
	for _, a := range p {
		if wait := a.at.Sub(now); !some || wait < first {
			first, some = wait, true
		}
	}
	return max(first, 0), some
}
