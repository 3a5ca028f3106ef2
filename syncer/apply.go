package syncer

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
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
		l.disk = l.disk.Loose()
	}
	return l
}

// places returns the directories in which something was staged.
func (l *landing) places(staged []*index.Entry) []string {
	var out []string
	seen := map[index.Path]bool{}
	for _, e := range staged {
		if dir := e.Path.Parent(); !seen[dir] {
			seen[dir] = true
			out = append(out, rootOr(dir))
		}
	}
	return out
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

// unstage removes what was staged and not placed.
func (d *Directory) unstage(l *landing, staged []*index.Entry) {
	for _, e := range staged {
		if l.placed[e] {
			continue
		}
		if err := d.disk.root.Unstage(e.Path.String(), l.stagedAs(e)); err != nil && !errors.Is(err, durable.ErrKind) {
			d.log.Warn("a temporary file is left behind", "error", err)
		}
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

// newToken names a job's temporaries.
func newToken() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// stagedAs names an entry's temporary by its path: a job may hold entries of several origins, whose numbers mean nothing to each other.
func stagedAs(token string, e *index.Entry) string {
	sum := sha256.Sum256([]byte(e.Path.String()))
	return fmt.Sprintf("%s-%x", token, sum[:8])
}

func (l *landing) stagedAs(e *index.Entry) string { return stagedAs(l.token, e) }

// stage puts whatever the plan needs beside its target. The first error of one file is the error of all: a batch is
// visible whole or not at all.
func (d *Directory) stage(ctx context.Context, l *landing, plan index.Plan) (staged []*index.Entry, err error) {
	for _, step := range plan {
		e := step.Entry
		var content io.Reader
		switch step.Action {
		case index.PutFile:
			source, err := d.content(ctx, l.job, e)
			if err != nil {
				return staged, nowhere{e, err}
			}
			defer source.Close()
			content = source
		case index.PutLink:
		default:
			continue
		}
		warn, err := d.stageOne(l.disk, e, l.stagedAs(e), content)
		if errors.Is(err, errNowhere) {
			return staged, nowhere{e, err}
		}
		if err != nil {
			return staged, fmt.Errorf("%s cannot be written: %w", e.Path, err)
		}
		l.warns[e] = warn
		staged = append(staged, e)
	}
	return staged, nil
}

// stageOne stages one entry's new version, verified against its digest as it is written.
func (d *Directory) stageOne(root *durable.Root, e *index.Entry, token string, content io.Reader) (warn, err error) {
	v := durable.Version{Volatile: e.Expires != 0, Owner: durable.AsItIs}
	if old, err := root.Lstat(e.Path.String()); err == nil {
		v.After = old.Mtime
	}
	switch c := e.Content.(type) {
	case index.File:
		v.Kind, v.Perm, v.Owner = durable.File, uint32(c.Perm), d.disk.owners.wanted(c.Owner, c.Group)
		if content, err = verified(content, c); err != nil {
			return nil, err
		}
	case index.Symlink:
		v.Kind, v.Target = durable.Symlink, c.Target
	}
	warn, err = root.Stage(e.Path.String(), token, v, content)
	if f, file := e.Content.(index.File); file && warn == nil && err == nil {
		warn = d.disk.owners.unknown(f.Owner, f.Group)
	}
	return warn, err
}

// inMemory is a source that can be read again: a bytes.Reader.
type inMemory interface {
	io.ReadSeeker
	io.WriterTo
	Len() int
}

// verified returns a reader of content that does not end well unless it is what is wanted. What is in memory is looked at at once.
func verified(content io.Reader, want index.File) (io.Reader, error) {
	small, ok := content.(inMemory)
	if !ok {
		return &verifying{source: io.LimitReader(content, want.Size+1), want: want, sum: sha256.New()}, nil
	}
	sum := sha256.New()
	if n, err := small.WriteTo(sum); err != nil || n != want.Size || index.Digest(sum.Sum(nil)) != want.Digest {
		return nil, errNowhere
	}
	_, err := small.Seek(0, io.SeekStart)
	return small, err
}

// verifying ends in an error unless what it passed on was exactly what was wanted.
type verifying struct {
	source io.Reader
	want   index.File
	n      int64
	sum    hash.Hash
}

func (v *verifying) Read(b []byte) (int, error) {
	n, err := v.source.Read(b)
	v.n += int64(n)
	v.sum.Write(b[:n]) // never an error (hash.Hash)
	if err == io.EOF && (v.n != v.want.Size || index.Digest(v.sum.Sum(nil)) != v.want.Digest) {
		return n, errNowhere
	}
	return n, err
}

// intentOf is the payload that recoverLocked reads: the token, then the entries, which have one origin, as an offer.
func intentOf(token string, entries []*index.Entry) []byte {
	o := wire.Offer{Key: make([]byte, 32), Origin: entries[0].Origin, Entries: entries}
	return append([]byte(token), wire.Encode(o)...)
}

// land makes the staged files visible, in the moment in which the replica learns of it.
func (d *Directory) land(l *landing) {
	d.mu.Lock()
	defer d.mu.Unlock()
	plan := d.r.plan(l.job)
	if !l.isRevert() {
		touched, err := d.observeTouchedLocked(l, plan)
		if err != nil {
			l.fail(err)
			return
		}
		if touched {
			plan = d.r.plan(l.job) // what was changed here meanwhile may have won
		}
	}
	l.fail(d.stepsLocked(l, stuckFirst(plan, l.stuck)))
}

// stepsLocked takes the steps of a plan, and the replica follows. Where one fails those before it are taken back, for a batch is visible whole or
// not at all.
func (d *Directory) stepsLocked(l *landing, plan index.Plan) error {
	for i, step := range plan {
		err := d.stepLocked(l, step)
		if err == nil {
			continue
		}
		if d.takenLocked(step) { // it was told wrong
			d.rememberSightLocked(step.Entry.Path)
			continue
		}
		l.stuck = step.Entry.Path
		undone := d.undoLocked(l, plan[:i])
		return errors.Join(fmt.Errorf("%s cannot be replaced: %w", step.Entry.Path, err), undone)
	}
	d.followLocked(l, plan)
	return nil
}

// followLocked has the replica follow steps that were taken.
func (d *Directory) followLocked(l *landing, steps []index.Step) {
	for _, step := range steps {
		if !l.isRevert() {
			d.landLocked(step)
		}
		l.done = append(l.done, step.Entry)
	}
}

// undoLocked takes back steps, the latest first. The replica follows those that cannot be: directories stay, and what put back the fleet's own.
func (d *Directory) undoLocked(l *landing, steps []index.Step) error {
	var stay []index.Step
	var errs []error
	for _, step := range slices.Backward(steps) {
		if !l.isRevert() {
			errs = append(errs, d.undoOneLocked(l, step))
		}
		if l.isRevert() || d.takenLocked(step) || step.Action == index.Note || step.Action == index.MakeDirectory || step.Action == index.SetMode {
			stay = append(stay, step)
		}
	}
	slices.Reverse(stay)
	d.followLocked(l, stay)
	return errors.Join(errs...)
}

// undoOneLocked takes back one step if what stood there is in the archive, or was nothing, or an empty directory.
func (d *Directory) undoOneLocked(l *landing, step index.Step) error {
	p, old := step.Entry.Path, step.Old
	put := step.Action == index.PutFile || step.Action == index.PutLink
	switch {
	case !put && step.Action != index.Delete || step.Entry.Expires != 0 || old != nil && old.Expires != 0:
		return nil
	case old == nil && put && l.bare[p]:
		err := d.disk.root.Remove(p.String())
		d.rememberSightLocked(p)
		return err
	case old == nil:
		return nil
	}
	if c, directory := old.Content.(index.Directory); directory && !put {
		_, err := d.disk.root.MkDir(p.String(), uint32(c.Perm), d.disk.owners.wanted(c.Owner, c.Group))
		d.rememberSightLocked(p)
		return err
	}
	return d.putBackLocked(old)
}

// stuckFirst moves the file that could not be replaced at the last try to where it is tried first, so that nothing need be taken back again.
func stuckFirst(plan index.Plan, stuck index.Path) index.Plan {
	at := slices.IndexFunc(plan, func(s index.Step) bool { return s.Entry.Path == stuck && s.Action == index.PutFile })
	if at <= 0 || slices.ContainsFunc(plan[:at], func(s index.Step) bool { return s.Entry.Path.Under(stuck) || stuck.Under(s.Entry.Path) }) {
		return plan
	}
	return slices.Insert(slices.Delete(slices.Clone(plan), at, at+1), 0, plan[at])
}

// landLocked has the replica follow a step. Where the disk was not touched, a deletion made here is still to be told; so is
// that of what has no place.
func (d *Directory) landLocked(step index.Step) {
	p := step.Entry.Path
	since, pending := d.r.deletes[p]
	d.r.landLoosely(step.Entry)
	if step.Action != index.Note {
		return
	}
	if !pending && d.r.displaced(step.Entry, nil) && !d.r.ownedByOthers(p) {
		since, pending = time.Now(), true
	}
	if pending {
		d.r.deletes[p] = since
	}
}

// observeTouchedLocked looks at the paths that a plan is about to change, and observes those that are not on the disk as the
// replica thinks: a change made here is a change, not something to overwrite.
// Where somebody is writing at this moment the error is errBusy, and the plan must wait.
func (d *Directory) observeTouchedLocked(l *landing, plan index.Plan) (touched bool, err error) {
	scan := newScan()
	for _, step := range plan {
		p := step.Entry.Path
		if step.Action == index.Note {
			continue
		}
		stat, err := d.disk.root.Lstat(p.String())
		if known, ok := d.seen[p]; err == nil && (!ok || known != stat) || err != nil && ok {
			d.lookInto(scan, p)
		}
		l.bare[p] = errors.Is(err, fs.ErrNotExist)
	}
	if len(scan.Looked) == 0 {
		return false, nil
	}
	d.takeScanLocked(scan)
	if len(scan.busy) > 0 {
		return true, fmt.Errorf("%s: %w", scan.busy[0], errBusy)
	}
	return true, nil
}

// stepLocked does one step to the disk. What it replaces is in the archive first.
func (d *Directory) stepLocked(l *landing, step index.Step) error {
	e, root := step.Entry, l.disk
	name := e.Path.String()
	if step.Action == index.Note {
		return nil
	}
	if _, err := root.Lstat(name); step.Action == index.Delete && errors.Is(err, durable.ErrKind) {
		return nil // the directory above made way for something else, and it went with it
	}
	l.dirs[e.Path.Parent()] = true
	keep := e.Expires == 0 && (step.Old == nil || step.Old.Expires == 0)
	if keep && step.Action != index.SetMode && !l.bare[e.Path] {
		if err := d.archive.Keep(root, name); err != nil {
			return fmt.Errorf("its old version cannot be kept: %w", err)
		}
	}
	var err, warn error
	switch step.Action {
	case index.Delete:
		err = root.Remove(name)
		if errors.Is(err, durable.ErrNotEmpty) { // somebody put something into it, which is about to be noticed
			d.rescan.wake()
			err = nil
		}
	case index.MakeDirectory:
		c := e.Content.(index.Directory)
		owner := d.disk.owners.wanted(c.Owner, c.Group)
		warn, err = root.MkDir(name, uint32(c.Perm), owner)
		if errors.Is(err, durable.ErrKind) {
			if err = root.Remove(name); err == nil {
				warn, err = root.MkDir(name, uint32(c.Perm), owner)
			}
		}
		l.dirs[e.Path] = true
	case index.SetMode:
		c := e.Content.(index.File)
		warn, err = root.SetMode(name, uint32(c.Perm), d.disk.owners.wanted(c.Owner, c.Group))
	case index.PutFile, index.PutLink:
		warn = l.warns[e]
		err = root.Place(name, l.stagedAs(e))
		if errors.Is(err, durable.ErrNotEmpty) {
			if err = d.clearLocked(e.Path); err == nil {
				err = root.Place(name, l.stagedAs(e))
			}
		}
		l.placed[e] = err == nil
	}
	if err != nil {
		return err
	}
	d.noteOwnershipLocked(e.Path, warn)
	d.rememberSightLocked(e.Path)
	return nil
}

// clearLocked empties a directory that must make way, by way of the archive.
func (d *Directory) clearLocked(dir index.Path) error {
	names, err := d.disk.root.ReadDir(dir.String())
	if err != nil {
		return err
	}
	for _, name := range names {
		p, err := dir.Join(name)
		if err != nil {
			return err
		}
		stat, err := d.disk.root.Lstat(p.String())
		if err == nil && stat.Kind == durable.Directory {
			err = d.clearLocked(p)
		}
		if err == nil {
			err = d.archive.Keep(d.disk.root, p.String())
		}
		if err == nil {
			err = d.disk.root.Remove(p.String())
		}
		if err != nil {
			return err
		}
		delete(d.seen, p)
	}
	return nil
}

// rememberSightLocked notes how a path looks right after it was changed.
func (d *Directory) rememberSightLocked(p index.Path) {
	if stat, err := d.disk.root.Lstat(p.String()); err == nil {
		d.seen[p] = stat
	} else {
		delete(d.seen, p)
	}
}

// removeLocked deletes from the disk what has expired. A failure is no harm: an expired challenge is worth nothing, and
// the next scan reports it as a file.
func (d *Directory) removeLocked(expired []*index.Entry) {
	for _, e := range expired {
		if d.Reserved(e.Path) {
			continue
		}
		if err := d.disk.root.Remove(e.Path.String()); err != nil {
			d.faultLocked(WriteFailed, e.Path, err)
		}
		delete(d.seen, e.Path)
	}
}

// rootOr returns a path's name below the root; the root itself is ".".
func rootOr(p index.Path) string {
	if p.IsZero() {
		return "."
	}
	return p.String()
}
