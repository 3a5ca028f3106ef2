package syncer

import (
	"fmt"
	"sync"
	"time"

	"certswarm/internal/fleet"
	"certswarm/syncer/index"
)

// DirectoryStatus is how a directory stands on this node.
type DirectoryStatus struct {
	Name        string
	Path        string
	Files       int // regular files and links
	Fingerprint index.Fingerprint
	State       State
	Reason      string
	Peers       map[fleet.NodeID]PeerProgress // the connected ones that have the directory
	Away        map[fleet.NodeID]PeerProgress // those that were connected in this run of the agent: what they lack of what they are known to have had
	Faults      []Fault
}

// PeerProgress is what a peer has not acknowledged as durably applied.
type PeerProgress struct {
	Behind  int
	Missing []index.Path // at most missingNamed of them
}

const missingNamed = 20

// Status tells how the directory stands. It does not wait for a disk: while one hangs it tells how things stood before, and that.
func (d *Directory) Status() DirectoryStatus {
	if d.mu.TryLock() {
		defer d.mu.Unlock()
		return d.told.keep(d.statusLocked())
	}
	enough := time.NewTimer(statusPatience)
	defer enough.Stop()
	for {
		mine, others, since := d.told.ask(func() DirectoryStatus {
			d.mu.Lock()
			defer d.mu.Unlock()
			return d.statusLocked()
		})
		select {
		case s := <-mine:
			return s
		case <-others: // theirs may be older than this question
		case <-enough.C:
			return d.told.before(d.DirectoryConfig, since)
		}
	}
}

// statusPatience is for how long Status waits for whoever holds the lock, which is mostly much less than a millisecond.
const statusPatience = 200 * time.Millisecond

// told is what Status said last, for when it cannot find out.
type told struct {
	mu     sync.Mutex
	last   DirectoryStatus
	asking chan struct{} // not nil while a goroutine waits for an answer, one at most: closed when it has one
	since  time.Time
}

func (t *told) keep(s DirectoryStatus) DirectoryStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = s
	return s
}

// ask finds out in another goroutine, which ends when the disk answers, and tells since when. While one is at it already, others ends when that one
// knows.
func (t *told) ask(find func() DirectoryStatus) (mine <-chan DirectoryStatus, others <-chan struct{}, since time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.asking != nil {
		return nil, t.asking, t.since
	}
	answer := make(chan DirectoryStatus, 1)
	t.asking, t.since = make(chan struct{}), time.Now()
	go func() {
		answer <- t.keep(find())
		t.mu.Lock()
		defer t.mu.Unlock()
		close(t.asking)
		t.asking = nil
	}()
	return answer, nil, t.since
}

// before is what was said last, and that nothing was heard since.
func (t *told) before(of DirectoryConfig, since time.Time) DirectoryStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.last
	s.Name, s.Path, s.State = of.Name, of.Path, Behind
	hangs := Fault{Code: DirectoryUnreadable, Since: since, Text: fmt.Sprintf(
		"the disk has not answered since %s; what else is said of the directory is as it was then", since.UTC().Format(time.RFC3339))}
	s.Faults = append([]Fault{hangs}, s.Faults...)
	return s
}

func (d *Directory) statusLocked() DirectoryStatus {
	s := DirectoryStatus{
		Name: d.Name, Path: d.Path, Files: d.r.x.Files(), Fingerprint: d.r.x.Fingerprint(),
		State: d.r.state(), Reason: d.r.halt, Peers: map[fleet.NodeID]PeerProgress{}, Away: map[fleet.NodeID]PeerProgress{}, Faults: d.faultsLocked(time.Now()),
	}
	for id, v := range d.r.peers {
		s.Peers[id] = d.progressLocked(v.acked)
	}
	for _, id := range d.Members() {
		if acked, known := d.r.gone[id]; known {
			s.Away[id] = d.progressLocked(acked)
		}
	}
	return s
}

func (d *Directory) progressLocked(acked index.Summary) PeerProgress {
	lacks := d.r.x.Lacking(acked)
	p := PeerProgress{Behind: len(lacks)}
	for _, e := range lacks[:min(len(lacks), missingNamed)] {
		p.Missing = append(p.Missing, e.Path)
	}
	return p
}
