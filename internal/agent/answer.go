package agent

import (
	"fmt"
	"sync"
	"time"

	"certswarm/internal/control"
	"certswarm/syncer"
)

// answer is what status said last, for as long as something that it asks waits for a disk.
type answer struct {
	mu     sync.Mutex
	last   control.Status
	asking chan struct{} // not nil while a goroutine gathers, one at most: closed when it has; it ends when the disk answers
	since  time.Time
}

// answerPatience is for how long status waits. It takes milliseconds where no disk hangs.
const answerPatience = time.Second

// status tells how things stand now; while a disk hangs, how they stood before, and that.
func (h *house) status() control.Status { return h.answer.get(h.gather, h.whileHung) }

// get returns what gather finds out. If that takes too long it is what otherwise makes of what was found out last.
func (a *answer) get(gather func() control.Status, otherwise func(last control.Status, since time.Time) control.Status) control.Status {
	enough := time.NewTimer(answerPatience)
	defer enough.Stop()
	for {
		mine, others := a.ask(gather)
		select {
		case s := <-mine:
			return s
		case <-others: // theirs may be older than this question
		case <-enough.C:
			a.mu.Lock()
			last, since := a.last, a.since
			a.mu.Unlock()
			return otherwise(last, since)
		}
	}
}

func (a *answer) ask(gather func() control.Status) (mine <-chan control.Status, others <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.asking != nil {
		return nil, a.asking
	}
	answered := make(chan control.Status, 1)
	a.asking, a.since = make(chan struct{}), time.Now()
	go func() {
		s := gather()
		a.mu.Lock()
		defer a.mu.Unlock()
		a.last = s
		answered <- s
		close(a.asking)
		a.asking = nil
	}()
	return answered, nil
}

// whileHung is what was said last, and which directory has not answered since.
func (h *house) whileHung(s control.Status, since time.Time) control.Status {
	s.Node = h.nodeStatus()
	s.Cluster = h.cfg.Cluster
	var hung control.List[control.Problem]
	directories := append(control.List[control.Directory](nil), s.Directories...)
	for _, d := range h.syncer.Directories() {
		ds := d.Status()
		for _, f := range ds.Faults {
			if f.Code == syncer.DirectoryUnreadable && f.Path == "" {
				hung = append(hung, h.problem(control.DirectoryUnreadable, f.Since, d.Name+": "+f.Text, "", "dmesg | tail; df "+d.Path))
			}
		}
		for i := range directories {
			if directories[i].Name == d.Name {
				directories[i].State, directories[i].Reason = control.DirectoryState(ds.State), reasonOf(ds)
			}
		}
	}
	if len(hung) == 0 {
		text := fmt.Sprintf("a disk has not answered since %s; what else is said here is as it was then", since.UTC().Format(time.RFC3339))
		hung = append(hung, h.problem(control.DirectoryUnreadable, since, text, "", "dmesg | tail; df"))
	}
	s.Directories, s.Problems = directories, append(hung, s.Problems...)
	return s
}
