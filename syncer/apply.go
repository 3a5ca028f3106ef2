package syncer

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"certswarm/internal/durable"
	"certswarm/syncer/index"
	"certswarm/syncer/wire"
)

// appliers is how many jobs are staged at a time: while one waits for the disk or for a large file, a small one goes ahead.
const appliers = 4

func (d *Directory) applyJobs(ctx context.Context, intent *durable.Intent) {
	for {
		d.mu.Lock()
		j := d.r.work(time.Now())
		if j != nil {
			d.stirWork.wake() // there may be one for the next applier
		}
		d.mu.Unlock()
		if j == nil {
			select {
			case <-ctx.Done():
				return
			case <-d.stirWork:
			}
			continue
		}
		d.apply(ctx, intent, j)
		if ctx.Err() != nil {
			return
		}
	}
}

// landing is a job on its way to the disk.
type landing struct {
	*job
	disk   *durable.Root // loose in bulk: one sync for all of it
	bulk   bool
	token  string // of its staged files; see stagedAs
	done   []*index.Entry
	dirs   map[index.Path]bool    // to be synced
	bare   map[index.Path]bool    // nothing stood here when the lock was taken
	warns  map[*index.Entry]error // of what was staged: it could not be given to its owner
	placed map[*index.Entry]bool  // what was staged and has its name
	err    error                  // the first failure
}

// apply brings one job to the disk. The order of effects:
//
//	make the directories                       needed for what comes next; a crash leaves some that are of use to nobody yet
//	stage every file beside its target         nothing else visible has changed; a crash leaves temporaries, which are swept
//	write the intent (synced if it is a batch) COMMIT 2: wholly staged; a crash from here on is finished by recoverLocked
//	under the lock, for each step:
//	    what the disk shows is what the replica thinks, else that is observed first
//	    the old version goes to the archive; one rename
//	the replica follows; if a step failed, those before it are taken back instead
//	sync the directories
//	finish: the state may follow, and after it the acknowledgement (COMMIT 3, see persist)
//
// In bulk the files and directories of a job are not synced one by one but all at once, before the intent and again after the last rename.
func (d *Directory) apply(ctx context.Context, intent *durable.Intent, j *job) {
	l := d.newLanding(j)
	d.mu.Lock()
	plan, err := d.prepareLocked(l)
	d.mu.Unlock()
	var staged []*index.Entry
	if err == nil {
		staged, err = d.stage(ctx, l, plan)
	}
	if err == nil && l.bulk && len(staged) > 0 {
		err = l.disk.SyncAll(l.places(staged)...)
	}
	switch {
	case errors.Is(err, errNowhere) && d.syncNames(l) == nil: // of what landed here or at an earlier try
		d.unstage(l, staged)
		d.mu.Lock()
		d.r.settleDone(time.Now(), j, l.done)
		d.r.abandon(time.Now(), j, nowhereToBeHad(err))
		d.tidyScaffoldLocked()
		d.stirLocked()
		d.mu.Unlock()
		return
	case err == nil && !j.isRevert() && len(plan) > 0:
		err = intent.Write(intentOf(l.token, l.entries), len(plan) > 1)
	}
	l.fail(err)

	if l.err == nil {
		d.land(l)
		l.fail(d.syncNames(l))
	}
	d.unstage(l, staged)
	d.mu.Lock()
	j.unsynced, j.landed = l.dirs, l.done // until a try ends well
	d.r.finish(time.Now(), j, l.done, l.err != nil)
	d.tidyScaffoldLocked()
	d.noteOutcomeLocked(j, l.err)
	d.stirLocked()
	d.mu.Unlock()
	if d.Applied != nil && len(l.done) > 0 {
		paths := make([]index.Path, len(l.done))
		for i, e := range l.done {
			paths[i] = e.Path
		}
		d.Applied(paths)
	}
	d.tidyAfter(l, staged)
}

// bulk is from how many entries on one sync of the whole file system is cheaper than one for each file. It also waits for what others wrote,
// so that a few files are better off without.
const bulk = 32

func newLandingOn(root *durable.Root, j *job, token string) *landing {
	return &landing{
		job: j, disk: root, token: token, dirs: map[index.Path]bool{}, bare: map[index.Path]bool{},
		warns: map[*index.Entry]error{}, placed: map[*index.Entry]bool{},
	}
}

func (d *Directory) newLanding(j *job) *landing {
	l := newLandingOn(d.disk.root, j, newToken())
	maps.Copy(l.dirs, j.unsynced)
	l.done = slices.Clone(j.landed)
	if l.bulk = len(j.entries) >= bulk; l.bulk {
		d.busy()
		l.disk = l.disk.Loose()
	}
	return l
}

// syncNames makes durable which names the directories of a landing hold now.
func (d *Directory) syncNames(l *landing) error {
	if l.bulk && len(l.dirs) > 0 {
		dirs := make([]string, 0, len(l.dirs))
		for dir := range l.dirs {
			dirs = append(dirs, rootOr(dir))
		}
		return l.disk.SyncAll(dirs...)
	}
	for dir := range l.dirs {
		if err := d.syncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// tidyAfter does what nobody waits for: old versions go, and the place for the next one of a file that comes alone is made.
func (d *Directory) tidyAfter(l *landing, staged []*index.Entry) {
	d.trim()
	if len(staged) != 1 || l.err != nil {
		return
	}
	if f, ok := staged[0].Content.(index.File); ok {
		_ = d.disk.root.Prepare(rootOr(staged[0].Path.Parent()), f.Size) // the next one takes its time, that is all
	}
}

func (d *Directory) trim() {
	if err := d.archive.Trim(); err != nil {
		d.log.Warn("old versions are left in the archive", "error", err)
	}
}

func (l *landing) fail(err error) {
	if l.err == nil {
		l.err = err
	}
}

// syncDir makes the names in a directory durable. One that made way for a file or a link meanwhile has none.
func (d *Directory) syncDir(dir index.Path) error {
	if err := d.disk.root.SyncDir(rootOr(dir)); !errors.Is(err, durable.ErrKind) {
		return err
	}
	return nil
}

func (l *landing) stagedAs(e *index.Entry) string { return stagedAs(l.token, e) }

// intentOf is the payload that recoverLocked reads: the token, then the entries, which have one origin, as an offer.
func intentOf(token string, entries []*index.Entry) []byte {
	o := wire.Offer{Key: make([]byte, 32), Origin: entries[0].Origin, Entries: entries}
	return append([]byte(token), wire.Encode(o)...)
}

// rootOr returns a path's name below the root; the root itself is ".".
func rootOr(p index.Path) string {
	if p.IsZero() {
		return "."
	}
	return p.String()
}
