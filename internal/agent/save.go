package agent

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"certswarm/internal/agent/config"
	"certswarm/internal/control"
	"certswarm/internal/fleet"
	"certswarm/internal/lease"
	"certswarm/syncer"
	"certswarm/syncer/index"
)

// savePatience is for how long an issuer that is connected is waited for after enough of them hold a file: one whose disk is full, or that
// shares no such files, holds no issuance up.
const savePatience = time.Second

// Save implements acmeclient.Fleet. This node must have it, and where the lease is voted for most of the issuers, so that whoever holds it next knows of
// it; of two issuers and a witness one is enough. The others that are there get the time to take it. See judgeSave for issuers that are gone.
func (f *issuerFleet) Save(ctx context.Context, file string, content []byte) error {
	p, err := index.ParsePath(file)
	if err != nil {
		return err
	}
	receipt, err := f.private.Publish(f.epoch(), syncer.Write{Path: p, Data: content, Perm: 0o600})
	if err != nil {
		f.unsaved.note(file, f.self.Name+" cannot write it: "+err.Error(), (*house)(f).freeDisk())
		return err
	}
	var now saved
	for patient := true; ; patient = false {
		round, stop := context.WithTimeout(ctx, savePatience)
		err := f.awaitMesh(round, receipt, func(have []fleet.NodeID) bool {
			now = f.judgeSave(have, f.unsaved.tooLong(f.cfg.Lease.BreakGlass, time.Now()))
			return now.enough && (len(now.without) == 0 || !patient)
		})
		stop()
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			f.unsaved.clear(file, false)
			return err
		}
		if !now.enough {
			f.unsaved.note(file, now.why((*house)(f).name), (*house)(f).towardsSaved(now))
			(*house)(f).changed.fire()
		}
	}
	if now.alone {
		f.log.Warn("an issuance goes on although most issuers do not have what it keeps: a holder that knows nothing of it would order again",
			"path", file, "because", now.why((*house)(f).name))
	}
	if f.unsaved.clear(file, now.alone) {
		(*house)(f).changed.fire()
	}
	if names, news := f.unsaved.leave(now.without, (*house)(f).name); news {
		f.log.Warn("issuers that are connected do not take what an issuance keeps; it goes on without them", "nodes", names, "path", file)
	}
	return nil
}

// awaitMesh is Await on the private directory for what depends on who is connected, too: the directory knows nothing of that, and would
// wait for ever for a node that died.
func (f *issuerFleet) awaitMesh(ctx context.Context, receipt syncer.Receipt, enough func(have []fleet.NodeID) bool) error {
	for {
		changed := f.mesh.Changed()
		round, stop := context.WithCancel(ctx)
		var waker sync.WaitGroup
		waker.Go(func() {
			select {
			case <-changed:
			case <-round.Done():
			}
			stop()
		})
		err := f.private.Await(round, receipt, enough)
		stop()
		waker.Wait()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
}

func (f *issuerFleet) judgeSave(have []fleet.NodeID, late bool) saved {
	connected := func(id fleet.NodeID) bool { _, up := f.mesh.Session(id); return up }
	view := f.elector.View()
	var votes func(fleet.NodeID) bool
	if view.Engine == "raft" && f.glass.grant() == nil {
		votes = func(id fleet.NodeID) bool {
			return slices.ContainsFunc(view.Voters, func(v lease.Voter) bool { return v.Node == id && !v.Learner })
		}
	}
	s := judgeSave(f.self.ID, f.roster.Load().Issuers(), have, connected, votes, late)
	for _, id := range s.without {
		if rep, heard := f.reports.get(id); heard && !rep.Obtains {
			s.bare = append(s.bare, id)
		}
	}
	return s
}

// saved is who holds a file that was published.
type saved struct {
	enough  bool           // to go on
	alone   bool           // too few hold it, and it goes on all the same
	without []fleet.NodeID // this node, and who is connected, if they do not
	absent  []fleet.NodeID // neither holds it nor is connected
	bare    []fleet.NodeID // those of without that have no acme:, and so no place for it
}

// judgeSave is whether a journal is saved. votes tells who votes for the lease; nil: it is not voted for.
//
// The next holder must know of it. It is elected by most voters, so that most of the issuers among them are enough where the others cannot be
// reached: after `lease recover` those who are left vote alone, however many are listed. Voters that hold no journal, witnesses, can make a holder of an issuer
// whose fellows are gone. It waits for them as long as it would for a lease (late), and then goes on: that the CA is asked twice is less than that a
// certificate expires.
func judgeSave(self fleet.NodeID, issuers []fleet.Member, have []fleet.NodeID, connected, votes func(fleet.NodeID) bool, late bool) saved {
	var s saved
	voters, voting, reachable := 0, 0, 0
	for _, m := range issuers {
		held := slices.Contains(have, m.ID)
		if held || m.ID == self || connected(m.ID) {
			reachable++
		}
		if votes != nil && votes(m.ID) {
			voters++
			if held {
				voting++
			}
		}
		switch {
		case held:
		case m.ID == self || connected(m.ID):
			s.without = append(s.without, m.ID)
		default:
			s.absent = append(s.absent, m.ID)
		}
	}
	holding := len(issuers) - len(s.without) - len(s.absent)
	most := votes == nil || len(issuers) < fewestVoters || holding > len(issuers)/2 ||
		reachable <= len(issuers)/2 && voting > voters/2
	s.enough = (most || late) && !slices.Contains(s.without, self)
	s.alone = s.enough && !most
	return s
}

// why says what keeps a file from being saved.
func (s saved) why(name func(fleet.NodeID) string) string {
	var parts []string
	failing := slices.DeleteFunc(slices.Clone(s.without), func(id fleet.NodeID) bool { return slices.Contains(s.bare, id) })
	if len(failing) > 0 {
		parts = append(parts, "not written by "+strings.Join(names(failing, name), ", "))
	}
	if len(s.bare) > 0 {
		parts = append(parts, "without acme: in the configuration: "+strings.Join(names(s.bare, name), ", "))
	}
	if len(s.absent) > 0 {
		parts = append(parts, "not connected: "+strings.Join(names(s.absent, name), ", "))
	}
	return strings.Join(parts, "; ")
}

func names(ids []fleet.NodeID, name func(fleet.NodeID) string) (out []string) {
	for _, id := range ids {
		out = append(out, name(id))
	}
	return out
}

// unsaved is what of an issuance could not be saved, and so holds it up.
type unsaved struct {
	mu     sync.Mutex
	files  map[string]hindrance // guarded by mu
	since  time.Time            // guarded by mu: of the first file since one was saved as it should be; zero: none was held up
	behind string               // guarded by mu: who did not take the last file that was saved
}

type hindrance struct {
	why   string // who does not have it
	next  string // what a person does about it
	since time.Time
}

// towardsSaved is what to do so that a file is saved.
func (h *house) towardsSaved(s saved) string {
	switch {
	case len(s.without) == 0:
		return "start the nodes that are named, or take those that will not come back out of peers: on every other node (certswarm reload)"
	case len(s.without) == len(s.bare):
		return "on " + strings.Join(names(s.bare, h.name), ", ") + ": add acme: to the configuration, and certswarm reload; or give them another role in peers:"
	}
	return h.freeDisk()
}

func (h *house) freeDisk() string { return "on the nodes that are named: df -h " + h.cfg.StateDir }

func (u *unsaved) note(file, why, next string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.files == nil {
		u.files = map[string]hindrance{}
	}
	since := time.Now()
	if old, known := u.files[file]; known {
		since = old.since
	}
	u.files[file] = hindrance{why, next, since}
	if u.since.IsZero() {
		u.since = since
	}
}

// tooLong reports whether files have been held up for as long as nobody may hold the lease.
func (u *unsaved) tooLong(glass config.BreakGlass, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return glass.Mode != config.Off && !u.since.IsZero() && now.Sub(u.since) >= time.Duration(glass.After)
}

// clear forgets a file, and reports whether there was something to forget. If it was not saved as it should be the next one is not waited for anew.
func (u *unsaved) clear(file string, held bool) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !held {
		u.since = time.Time{}
	}
	_, known := u.files[file]
	delete(u.files, file)
	return known
}

// leave takes down who is left behind, and reports whether that is news.
func (u *unsaved) leave(behind []fleet.NodeID, name func(fleet.NodeID) string) (who string, news bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	who = strings.Join(names(behind, name), ", ")
	news = who != "" && who != u.behind
	u.behind = who
	return who, news
}

// holdsUp returns what keeps an attempt at the certificate called name from going on, "" if nothing does.
func (u *unsaved) holdsUp(name string) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	for p, h := range u.files {
		if path.Base(p) == name+".json" {
			return "nothing is asked of the CA before the journal is saved: " + h.why
		}
	}
	return ""
}

// unsavedProblems is what holds up the issuances of a node that acts.
func (h *house) unsavedProblems() []control.Problem {
	if !h.elector.View().HeldHere && h.glass.grant() == nil {
		return nil
	}
	h.unsaved.mu.Lock()
	defer h.unsaved.mu.Unlock()
	var out []control.Problem
	for p, held := range h.unsaved.files {
		out = append(out, h.problem(control.WriteFailed, held.since, fmt.Sprintf("issuers/%s is not saved: %s", p, held.why),
			"nothing is asked of the CA before this node, and where the lease is voted for most issuers, have it", held.next))
	}
	slices.SortFunc(out, func(a, b control.Problem) int { return strings.Compare(a.Text, b.Text) })
	return out
}
