package syncer

import (
	"errors"
	"fmt"
	"sort"
	"time"

	"certswarm/internal/durable"
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
	Path  string // "" for the directory itself
	Since time.Time
	Text  string
}

func faultKey(code FaultCode, p index.Path) string { return string(code) + " " + p.String() }

func (d *Directory) faultLocked(code FaultCode, p index.Path, err error) {
	key := faultKey(code, p)
	f, known := d.faults[key]
	if !known {
		f = Fault{Code: code, Path: p.String(), Since: time.Now()}
		d.log.Warn(err.Error(), "problem", string(code), "path", p.String())
	}
	f.Text = err.Error()
	d.faults[key] = f
}

func (d *Directory) clearFaultLocked(code FaultCode, p index.Path) {
	delete(d.faults, faultKey(code, p))
}

// noteSurveyLocked keeps the faults of what was looked at.
func (d *Directory) noteSurveyLocked(s *survey) {
	for _, p := range s.fine {
		for _, code := range []FaultCode{NameRefused, DirectoryUnreadable} {
			d.clearFaultLocked(code, p)
		}
	}
	for p, err := range s.faults {
		var odd strange
		switch {
		case errors.Is(err, ErrWatchLimit):
			d.faultLocked(WatchLimited, index.Path{}, err)
		case errors.As(err, &odd):
			d.faultLocked(NameRefused, p, err)
		default:
			d.faultLocked(DirectoryUnreadable, p, err)
		}
	}
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
	for _, f := range []*Fault{d.storeFault, d.damage} {
		if f != nil {
			out = append(out, *f)
		}
	}
	if d.r.halt != "" {
		out = append(out, Fault{Code: DirectoryHalted, Since: d.r.haltedAt, Text: d.r.halt})
	}
	for p, at := range d.r.reverted {
		out = append(out, Fault{Code: EditReverted, Path: p.String(), Since: at,
			Text: "a change made here was put back: it is not this node's to make"})
	}
	for id, refusals := range d.r.refusedBy {
		for _, refusal := range refusals {
			out = append(out, Fault{Code: EntryRefused, Path: refusal.Path.String(), Since: time.Now(),
				Text: fmt.Sprintf("%s does not take it: %s", d.r.nameOf(id), refusal.Reason)})
		}
	}
	for id, ahead := range d.r.clockAhead {
		which := "ahead of"
		if ahead < 0 {
			which, ahead = "behind", -ahead
		}
		out = append(out, Fault{Code: ClockSkew, Since: time.Now(),
			Text: fmt.Sprintf("the clock of %s is %s %s this node's", d.r.nameOf(id), ahead.Round(time.Second), which)})
	}
	sort.Slice(out, func(a, b int) bool {
		if !out[a].Since.Equal(out[b].Since) {
			return out[a].Since.Before(out[b].Since)
		}
		return out[a].Path < out[b].Path
	})
	return out
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
