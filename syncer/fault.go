package syncer

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"

	"certswarm/internal/durable"
	"certswarm/internal/fleet"
	"certswarm/syncer/index"

	"golang.org/x/sys/unix"
)

// FaultCode says what kind of thing is wrong; the codes are those of `certswarm status`.
type FaultCode string

// The faults of a directory.
const (
	DiskFull            FaultCode = "disk-full"
	WriteFailed         FaultCode = "write-failed"
	OwnershipFailed     FaultCode = "ownership-failed"
	DirectoryUnreadable FaultCode = "directory-unreadable"
	NameRefused         FaultCode = "name-refused"
	HeldFile            FaultCode = "held-file"
	WatchLimited        FaultCode = "watch-limited"
	StateDamaged        FaultCode = "state-damaged"
	EditReverted        FaultCode = "edit-reverted"
	EntryRefused        FaultCode = "entry-refused"
	ClockSkew           FaultCode = "clock-skew"
	DirectoryHalted     FaultCode = "directory-halted"
)

// Fault is something that is wrong on this node, since when, and why.
type Fault struct {
	Code  FaultCode
	Path  string       // "" for the directory itself
	Node  fleet.NodeID // whose it is, where it may be another's: ClockSkew's; else zero
	Since time.Time
	Text  string
}

func faultKey(code FaultCode, p index.Path) string { return string(code) + " " + p.String() }

func (d *Directory) faultLocked(code FaultCode, p index.Path, err error) {
	key := faultKey(code, p)
	f, known := d.faults[key]
	if !known {
		f = Fault{Code: code, Path: p.String(), Since: time.Now()}
		d.logFaultLocked(code, p, err)
	}
	f.Text = err.Error()
	d.faults[key] = f
}

// mostLogged is how many problems of one kind are logged within logSpan, each by itself.
const (
	mostLogged = 50
	logSpan    = time.Minute
)

// logged counts what was logged of one kind.
type logged struct {
	since time.Time
	n     int
}

func (d *Directory) logFaultLocked(code FaultCode, p index.Path, err error) {
	l := d.logged[code]
	if now := time.Now(); now.Sub(l.since) > logSpan {
		l = logged{since: now}
	}
	l.n++
	d.logged[code] = l
	switch {
	case l.n <= mostLogged:
		d.log.Warn(err.Error(), "problem", string(code), "path", p.String())
	case l.n == mostLogged+1:
		d.log.Warn("there are more problems of this kind; no more of them are logged within a minute", "problem", string(code))
	}
}

func (d *Directory) clearFaultLocked(code FaultCode, p index.Path) {
	delete(d.faults, faultKey(code, p))
}

// lookFaults are the faults that a look at a path finds, and the next one ends.
var lookFaults = []FaultCode{NameRefused, DirectoryUnreadable}

// doubtedLocked reports whether the last look at p found a fault.
func (d *Directory) doubtedLocked(p index.Path) bool {
	return len(d.faults) > 0 && slices.ContainsFunc(lookFaults, func(code FaultCode) bool {
		_, faulty := d.faults[faultKey(code, p)]
		return faulty
	})
}

// noteSurveyLocked keeps the faults of what was looked at.
func (d *Directory) noteSurveyLocked(s *survey) {
	for _, p := range s.fine {
		for _, code := range lookFaults {
			if err := s.faults[p]; err == nil || lookFault(err) != code { // else it is still there, and no news
				d.clearFaultLocked(code, p)
			}
		}
	}
	d.endFaultsLocked(s)
	for p, got := range s.sights {
		if got.stat.Special {
			d.faultLocked(NameRefused, p, errSpecial)
		}
	}
	for p, err := range s.faults {
		d.faultLocked(lookFault(err), p, err)
	}
}

// lookFault is the code for the error of a look.
func lookFault(err error) FaultCode {
	if odd := (strange{}); errors.As(err, &odd) {
		return NameRefused
	}
	return DirectoryUnreadable
}

// errSpecial says what others do not get of a file.
var errSpecial = strange{"setuid, setgid and sticky are not replicated: the others have it without"}

// endFaultsLocked ends the faults of paths that the survey shows to be gone, and of files that belong by now to whom they were to be given.
func (d *Directory) endFaultsLocked(s *survey) {
	var looked, listed map[index.Path]bool
	for key, f := range d.faults {
		p, err := index.ParsePath(f.Path)
		if err != nil {
			continue // the directory's own
		}
		if looked == nil {
			looked, listed = setOfPaths(s.Looked), setOfPaths(s.Listed)
		}
		got, seen := s.sights[p]
		e := d.r.x.Live(p)
		switch {
		case s.isGone(p, looked, listed), f.Code == OwnershipFailed && seen && (e == nil || d.disk.owners.satisfied(e.Content, got.stat)):
			delete(d.faults, key)
		}
	}
}

// isGone reports whether a survey shows that nothing is at p. What it did not look at, or could not, may be there.
func (s *survey) isGone(p index.Path, looked, listed map[index.Path]bool) bool {
	if looked[p] || s.same[p] {
		_, found := s.Found[p]
		return !found
	}
	for dir := p; !dir.IsZero(); {
		dir = dir.Parent()
		if listed[dir] {
			return true
		}
		if looked[dir] {
			found, is := s.Found[dir]
			_, directory := found.Content.(index.Directory)
			return !is || !found.Held && !directory
		}
	}
	return false
}

// textOlder is said for a while after ErrRejoin, where it is certain that it was not for having been away.
const textOlder = "the state database was that of an earlier day: the others hold changes of this node that it did not know of; " +
	"it has joined anew, and what the fleet deleted meanwhile is in the archive; nothing is to be done"

func setOfPaths(paths []index.Path) map[index.Path]bool {
	set := make(map[index.Path]bool, len(paths))
	for _, p := range paths {
		set[p] = true
	}
	return set
}

// noteOutcomeLocked keeps the faults of jobs: one that succeeds shows that the disk can be written again.
func (d *Directory) noteOutcomeLocked(j *job, err error) {
	switch {
	case err == nil:
		for key, f := range d.faults {
			if f.Code == DiskFull || f.Code == WriteFailed {
				delete(d.faults, key)
			}
		}
	case errors.Is(err, errBusy), errors.Is(err, durable.ErrDetached): // told already
	case errors.Is(err, errSlow):
		d.log.Warn(err.Error())
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		d.faultLocked(DiskFull, index.Path{}, err)
	default:
		d.faultLocked(WriteFailed, index.Path{}, err)
	}
	if j.isRevert() && err == nil {
		for _, e := range j.entries {
			d.log.Warn("what the fleet has was put back; a file that was here is in the archive", "path", e.Path.String())
		}
	}
}

func (d *Directory) noteOwnership(p index.Path, warn error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.noteOwnershipLocked(p, warn)
}

func (d *Directory) noteOwnershipLocked(p index.Path, warn error) {
	if warn != nil {
		d.faultLocked(OwnershipFailed, p, warn)
	} else {
		d.clearFaultLocked(OwnershipFailed, p)
	}
}

// faultsLocked lists what is wrong now, the oldest first.
func (d *Directory) faultsLocked(now time.Time) []Fault {
	out := d.heldFaultsLocked(now)
	for _, f := range d.faults {
		out = append(out, f)
	}
	for _, f := range []*Fault{d.storeFault, d.damage, d.overflow} {
		if f != nil {
			out = append(out, *f)
		}
	}
	if d.r.older && now.Sub(d.r.rejoined).Abs() < damageMemory {
		out = append(out, Fault{Code: StateDamaged, Since: d.r.rejoined, Text: textOlder})
	}
	if d.r.halt != "" {
		out = append(out, Fault{Code: DirectoryHalted, Since: d.r.haltedAt, Text: d.r.halt})
	}
	for p, at := range d.r.reverted {
		out = append(out, Fault{Code: EditReverted, Path: p.String(), Since: at,
			Text: "a change made here was put back: it is not this node's to make"})
	}
	for p, at := range d.r.lost {
		out = append(out, Fault{Code: EditReverted, Path: p.String(), Since: at,
			Text: "a change made here cannot be put back: no node that is connected has what the fleet had there; restore it from an archive, or write it anew"})
	}
	d.r.dropRefusals()
	for id, objections := range d.r.refusedBy {
		for _, o := range objections {
			out = append(out, Fault{Code: EntryRefused, Path: o.Path.String(), Since: o.since,
				Text: fmt.Sprintf("%s does not take it: %s", d.r.nameOf(id), o.Reason)})
		}
	}
	for id, wrong := range d.r.skews {
		out = append(out, d.clockFault(id, wrong))
	}
	sort.Slice(out, func(a, b int) bool {
		if !out[a].Since.Equal(out[b].Since) {
			return out[a].Since.Before(out[b].Since)
		}
		return out[a].Path < out[b].Path
	})
	return out
}

// clockFault says whose clock is wrong.
func (d *Directory) clockFault(id fleet.NodeID, wrong skew) Fault {
	by, which := wrong.ahead, "ahead of"
	if by < 0 {
		by, which = -by, "behind"
	}
	than := "most others'"
	if !wrong.certain {
		than = "this node's; two clocks do not tell which of them is right"
		if len(d.r.clocks) > 1 {
			than = "this node's; no majority of the clocks agrees"
		}
	}
	return Fault{Code: ClockSkew, Node: id, Since: wrong.since,
		Text: fmt.Sprintf("the clock of %s is %s %s %s", d.r.nameOf(id), roughly(by), which, than)}
}

// roughly says a time in words of its own size, so that all nodes say it alike.
func roughly(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", int(d.Hours()+12)/24)
	case d >= 10*time.Minute:
		return d.Round(time.Minute).String()
	}
	return d.Round(time.Second).String()
}

// contentCache holds the latest small files that were seen or received, so that offering them reads no disk. It is bounded by cacheBytes.
type contentCache struct {
	content map[index.Digest][]byte
	order   []index.Digest
	bytes   int
}

const cacheBytes = 256 << 10

func (c *contentCache) put(digest index.Digest, content []byte) {
	if _, known := c.content[digest]; known {
		return
	}
	if c.content == nil {
		c.content = map[index.Digest][]byte{}
	}
	c.content[digest] = content
	c.order = append(c.order, digest)
	c.bytes += len(content)
	for c.bytes > cacheBytes {
		c.bytes -= len(c.content[c.order[0]])
		delete(c.content, c.order[0])
		c.order = c.order[1:]
	}
}
