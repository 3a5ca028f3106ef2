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

// What could not be read is looked at again after unreadFirst, then after twice as long each time, up to unreadLast: the cause may pass, and nobody
// tells of that.
const (
	unreadFirst = time.Second
	unreadLast  = time.Minute
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
	// unread says that it is for what could not be read. Any other appointment comes sooner, and takes its place.
	unread bool
}

// leave gives a path its time to become something else; more news of it changes nothing.
func (p postponed) leave(path index.Path, now time.Time) {
	if a, known := p[path]; !known || a.unread {
		p[path] = appointment{at: now.Add(patience)}
	}
}

// again makes the next appointment for a path that was looked at too early.
func (p postponed) again(path index.Path, now time.Time) {
	last := p[path]
	if last.since.IsZero() {
		last = appointment{since: now}
	}
	most := retryLast
	if now.Sub(last.since) > 5*pairs.Patience {
		most = retrySeldom
	}
	delay := min(max(2*last.delay, retryFirst), most)
	p[path] = appointment{at: now.Add(delay), delay: delay, since: last.since}
}

// keepUnread makes the first appointments for the paths that cannot be read, and ends those for what could be since, or is gone. One that is made stays
// as it is, whoever looks meanwhile.
func (p postponed) keepUnread(paths map[index.Path]bool, now time.Time) {
	for path, a := range p {
		if a.unread && !paths[path] {
			delete(p, path)
		}
	}
	for path := range paths {
		if _, known := p[path]; !known {
			p.stillUnread(path, now)
		}
	}
}

// stillUnread makes the next appointment for a path that was tried again.
func (p postponed) stillUnread(path index.Path, now time.Time) {
	delay := min(max(2*p[path].delay, unreadFirst), unreadLast)
	p[path] = appointment{at: now.Add(delay), delay: delay, unread: true}
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
