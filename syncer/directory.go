package syncer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"certswarm/internal/durable"
	"certswarm/internal/fleet"
	"certswarm/syncer/index"
	"certswarm/syncer/state"
	"certswarm/syncer/wire"
)

// DirectoryConfig is one replicated directory. The functions may be asked at any time, also while the Directory's lock is held: they
// must be quick and must not call back.
type DirectoryConfig struct {
	Name      string
	Path      string   // must exist
	Owner     string   // user[:group] for what is written here; "": as at the origin, by name
	Ignore    []string // globs; see matcher
	MaxFile   int64    // bytes
	MaxDelete int      // per cent of the files; more than this at once halts

	Members  func() []fleet.NodeID    // who is to have the directory, this node included
	MayWrite func(fleet.NodeID) bool  // who may originate changes
	MayLease func(fleet.NodeID) bool  // who may originate changes under a lease epoch
	Precious func(index.Path) bool    // what a replicated delete does not take away unless it was written under the lease; nil: nothing
	Reserved func(index.Path) bool    // what the index carries but somebody else on this node puts in place; nil: nothing
	Applied  func(paths []index.Path) // told after the disk followed others' changes; nil: nobody asks
	Observed func(paths []index.Path) // told after changes made on this disk were noticed; nil: nobody asks
}

// versionsKept is how many earlier versions of a path stay in the archive.
const versionsKept = 5

// Directory is one replicated directory on this node: a replica, the disk that it describes, and the goroutines that
// keep the two the same. See Syncer for its life.
type Directory struct {
	DirectoryConfig
	log     *slog.Logger
	busy    func() // see Config.Busy
	disk    *disk
	archive *durable.Archive
	base    *durable.Root // where the agent keeps what is its own: the store, the archive, the intents
	store   *state.Store
	watch   Watcher // belongs to notice while it runs
	rewatch func() (Watcher, error)
	// Directories that are not watched, and why, and when they were read last; as watch.
	unwatched map[index.Path]error
	heard     time.Time
	intents   []*durable.Intent
	closers   []func() error

	// Lock order: mu alone. It is held while the disk is compared with or changed along the replica, so that nobody sees the
	// one without the other; never while a file is staged, sent or synced in bulk.
	mu        sync.Mutex
	r         *replica                     // guarded by mu
	seen      map[index.Path]durable.Stat  // guarded by mu: the disk as the replica knows it
	scaffold  map[index.Path]bool          // guarded by mu: directories that stand for the sake of what is in them; see scaffoldLocked
	owed      map[index.Path]bool          // guarded by mu: what is to be given to whom it belongs; see giveOwed
	refused   map[index.Path]durable.Owner // guarded by mu: to whom the disk did not give it
	forgetful bool                         // at the start it was not known as whose things stand
	asked     time.Time                    // belongs to notice: when canGive was answered last
	cache     contentCache                 // guarded by mu
	links     map[fleet.NodeID]*conversation
	slow      map[fleet.NodeID]time.Time // guarded by mu: when a peer was too slow with a file
	faults    map[string]Fault           // guarded by mu, by code and path
	logged    map[FaultCode]logged       // guarded by mu
	holds     map[index.Path]holding     // guarded by mu: what is on the disk and not told yet
	changed   chan struct{}              // guarded by mu: closed at the next change

	told told // by Status

	saving sync.Mutex // held while the store is written; taken before mu

	storeFault *Fault   // guarded by mu: the state database cannot be written
	starved    bool     // guarded by mu: numbers could not be reserved, and changes wait for them
	damage     *Fault   // guarded by mu: a state database that could not be used
	damaged    string   // guarded by mu: where it was set aside; once somebody has removed it, it is no news any more
	absent     *absence // guarded by mu, changed by notice alone; nil: the directory is where it should be
	loggedHalt string   // guarded by mu

	overflow   *Fault    // guarded by mu: hints were lost
	overflowed time.Time // guarded by mu: when last

	stirWork, stirSave, stirTime signal
	rescan, again                signal
	inspections                  chan inspection
	ended                        chan struct{} // closed when nobody takes inspections any more
	anew                         *atomic.Bool  // all of the Syncer's end because one of them begins anew
}

// signal wakes one goroutine; a second one before it woke is the same.
type signal chan struct{}

// inspection is somebody's wish to have everything read again, and what to do with it under the lock; do returns what is not as it
// was. One that decides about a halt takes whatever directory is there.
type inspection struct {
	decides bool
	do      func(*survey) []index.Path
	done    chan error // takes one without waiting
}

func newSignal() signal { return make(signal, 1) }

func (s signal) wake() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// open loads what the node knew, finishes what a crash interrupted, and compares the disk with it. When it returns the directory is
// as well known as if the agent had never been away.
func (s *Syncer) open(cfg DirectoryConfig) (d *Directory, err error) {
	d = &Directory{
		DirectoryConfig: cfg,
		log:             s.Log.With("directory", cfg.Name),
		busy:            s.Busy,
		seen:            map[index.Path]durable.Stat{},
		scaffold:        map[index.Path]bool{},
		owed:            map[index.Path]bool{},
		refused:         map[index.Path]durable.Owner{},
		unwatched:       map[index.Path]error{},
		links:           map[fleet.NodeID]*conversation{},
		slow:            map[fleet.NodeID]time.Time{},
		faults:          map[string]Fault{},
		logged:          map[FaultCode]logged{},
		holds:           map[index.Path]holding{},
		changed:         make(chan struct{}),
		stirWork:        newSignal(),
		stirSave:        newSignal(),
		stirTime:        newSignal(),
		rescan:          newSignal(),
		again:           newSignal(),
		inspections:     make(chan inspection),
		ended:           make(chan struct{}),
		anew:            &s.anew,
	}
	begun := d // an error is returned without it
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("directory %s: %w", cfg.Name, err), begun.close())
		}
	}()
	if d.Reserved == nil {
		d.Reserved = func(index.Path) bool { return false }
	}
	if err := d.openDisk(s.State); err != nil {
		return nil, err
	}
	if err := d.remember(s); err != nil {
		return nil, err
	}
	d.rewatch = s.Watch
	d.listen()
	d.closers = append(d.closers, func() error { return begun.watch.Close() })

	if err := d.takeUp(); err != nil {
		return nil, err
	}
	d.giveOwed()
	return d, nil
}

// takeUp finishes what a crash interrupted, and compares the disk with what was known.
func (d *Directory) takeUp() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.recoverLocked(); err != nil {
		return err
	}
	d.seedLocked()
	return nil
}

// seedLocked compares the disk with what was known before, for the first time in this run.
func (d *Directory) seedLocked() {
	scan := newScan()
	scan.sweep = true
	d.walkInto(scan, index.Path{})
	d.noteUnwatchedLocked()
	d.takeScanLocked(scan)
	d.r.seeded = true
	d.removeLocked(d.r.tick(time.Now()))
}

// makePlaces makes the directories of a replicated directory's state, where they are not there.
func makePlaces(base *durable.Root, name string) error {
	for _, dir := range []string{state.Dir, "archive", "archive/" + name} {
		if _, err := base.MkDir(dir, 0o700, durable.AsItIs); err != nil {
			return err
		}
	}
	return nil
}

func (d *Directory) openDisk(base *durable.Root) error {
	d.base = base
	if err := makePlaces(base, d.Name); err != nil {
		return err
	}
	root, err := base.Beside(d.Path)
	if err != nil {
		return err
	}
	d.closers = append(d.closers, root.Close)
	policy, err := parseOwner(d.Owner)
	if err != nil {
		return err
	}
	ignored, err := newMatcher(d.Ignore)
	if err != nil {
		return err
	}
	d.disk = &disk{
		root: root, ignored: ignored, maxFile: d.MaxFile, unasked: sync.OnceFunc(d.sayUnasked),
		owners: &owners{policy: policy, privileged: os.Geteuid() == 0, idOf: idOf, nameOf: nameOf},
	}
	kept, err := base.Beside(filepath.Join(base.Dir(), "archive", d.Name))
	if err != nil {
		return err
	}
	d.closers = append(d.closers, kept.Close)
	d.archive = durable.OpenArchive(kept, versionsKept)

	for i := range appliers + 1 { // the last one is Publish's
		intent, err := durable.OpenIntent(base, fmt.Sprintf("%s/%s.intent-%d", state.Dir, d.Name, i))
		if err != nil {
			return err
		}
		d.intents = append(d.intents, intent)
		d.closers = append(d.closers, intent.Close)
	}
	return nil
}

// remember makes the replica from the store.
func (d *Directory) remember(s *Syncer) error {
	scope := wire.Scope{Cluster: s.Cluster, Directory: d.Name}
	store, m, damage, err := state.Open(s.State, d.Name, scope)
	if err != nil {
		return err
	}
	d.store = store
	d.closers = append(d.closers, store.Close)
	d.noteDamageLocked(damage, "this node begins anew: the fleet's versions stand, and what differed here is in the archive")
	d.recallDamage()
	d.r = newReplica(rules{
		self: index.Origin{Node: s.Self, Incarnation: m.Incarnation}, key: s.Key, sign: s.Sign, scope: scope,
		members: d.Members, mayWrite: d.MayWrite, mayLease: d.MayLease, nameOf: s.NameOf,
		reserved: d.Reserved, precious: d.Precious, same: func(known, found index.Content) bool { return known == found }, maxFile: d.MaxFile, maxDelete: d.MaxDelete,
	})
	d.r.fresh, d.r.seq, d.r.ceiling = m.Fresh, m.Seq, store.Ceiling()
	for _, e := range m.Entries {
		d.r.x.Merge(e)
		d.r.note(e.Stamp)
	}
	for o, seq := range m.Held {
		d.r.x.Hold(o, seq)
	}
	d.r.begun, d.r.forgotten, d.r.doubt, d.r.rejoined, d.r.older = m.Seq, m.Forgotten, doubt{m.Doubted, m.Until}, m.Rejoined, m.Older
	maps.Copy(d.r.keys, m.Keys)
	maps.Copy(d.r.stopgaps, m.Stopgaps)
	d.forgetful = m.Stopgaps == nil
	d.r.durable = d.r.x.Held().Clone()
	return nil
}

func (d *Directory) close() error {
	var errs []error
	for i := len(d.closers) - 1; i >= 0; i-- {
		errs = append(errs, d.closers[i]())
	}
	return errors.Join(errs...)
}

// rehashInterval is how often everything is read again, for changes that no event told of.
const rehashInterval = 10 * time.Minute

// run keeps the directory going until ctx ends, or until it must begin anew (ErrRejoin); the state is on disk when it returns.
func (d *Directory) run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var all sync.WaitGroup
	start := func(f func(context.Context)) { all.Go(func() { f(ctx) }) }
	start(d.notice)
	start(d.keepTime)
	for i := range appliers {
		start(func(ctx context.Context) { d.applyJobs(ctx, d.intents[i]) })
	}
	start(d.persistAll)
	d.mu.Lock()
	d.stirLocked()
	d.mu.Unlock()
	anew := false
	all.Go(func() {
		select {
		case <-ctx.Done():
		case <-d.again:
			anew = true
			d.anew.Store(true)
			stop()
		}
	})
	all.Wait()
	err := d.persist()
	if anew && err == nil {
		err = d.rejoin()
	}
	return errors.Join(err, d.close())
}

// stirLocked wakes whoever may have something to do after the replica changed.
func (d *Directory) stirLocked() {
	if halt := d.r.halt; halt != d.loggedHalt {
		if d.loggedHalt = halt; halt != "" {
			d.log.Error("halted: nothing that changes here goes out before certswarm resume", "reason", halt)
		} else {
			d.log.Info("the halt has ended")
		}
	}
	d.stirWork.wake()
	d.stirSave.wake()
	d.stirTime.wake()
	for _, link := range d.links {
		link.stir.wake()
	}
	d.announceLocked()
}

// announceLocked tells whoever waits for something to change.
func (d *Directory) announceLocked() {
	close(d.changed)
	d.changed = make(chan struct{})
}

// keepTime does what is due by itself.
func (d *Directory) keepTime(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.stirTime:
		case <-timer.C:
			d.mu.Lock()
			if d.absent == nil {
				d.tickLocked(time.Now())
			}
			d.mu.Unlock()
			select { // our own stirring is no news
			case <-d.stirTime:
			default:
			}
		}
		var at time.Time
		d.mu.Lock()
		if d.absent == nil { // else the directory's return is what wakes
			at = d.r.wake(time.Now())
		}
		d.mu.Unlock()
		if !at.IsZero() {
			timer.Reset(max(time.Until(at), time.Millisecond))
		} else {
			timer.Stop()
		}
	}
}

// tickLocked does what is due.
func (d *Directory) tickLocked(now time.Time) {
	d.doubtDeletesLocked(now)
	d.reserveLocked(len(d.r.deletes))
	d.removeLocked(d.r.tick(now))
	d.stirLocked()
}

// doubtDeletesLocked looks once more, before deletions are judged, whether what was deleted is there again: the news of it may be on its way. While others
// of its set wait for it, it is being replaced.
func (d *Directory) doubtDeletesLocked(now time.Time) {
	if at := d.r.judgement(); at.IsZero() || now.Before(at) {
		return
	}
	for p := range d.r.deletes {
		if _, err := d.disk.look(p); !errors.Is(err, fs.ErrNotExist) {
			delete(d.r.deletes, p)
			d.rescan.wake()
		} else if d.isAwaitedLocked(now, p) {
			d.r.deletes[p] = now
		}
	}
}

// reserveLocked makes sure that n more sequence numbers are reserved on disk.
func (d *Directory) reserveLocked(n int) {
	if d.r.seq+uint64(n) <= d.r.ceiling {
		return
	}
	if err := d.store.Reserve(d.r.seq + uint64(n)); err != nil {
		d.storeFaultLocked(err)
		d.starved = true
		d.stirSave.wake()
		return
	}
	d.r.ceiling = d.store.Ceiling()
}

// gathering is for how long changes gather before they are persisted. Whoever is about to see them does not wait for it; what must not share the
// disk with the store in that moment is the staging of those very changes, here or at a peer on the same host.
const gathering = 3 * time.Millisecond

// persistAll writes to the store whatever is not there yet, all that has gathered in one transaction.
func (d *Directory) persistAll(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.stirSave:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(gathering):
		}
		if err := d.persist(); err != nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(storeInterval):
				d.stirSave.wake()
			}
		}
	}
}

// storeInterval is how often it is tried to write to a state database that cannot be written.
const storeInterval = 5 * time.Second

// persist is COMMIT 1 for changes made here (we owe them to the fleet) and COMMIT 3 for changes of others (we have them,
// and say so). A crash before it leaves a disk that is ahead of the state; see stampFor and recoverLocked.
func (d *Directory) persist() error {
	d.saving.Lock()
	defer d.saving.Unlock()
	d.mu.Lock()
	err := d.mendStoreLocked()
	u := d.r.takeDirty()
	keys := maps.Clone(d.r.keys)
	d.mu.Unlock()
	if err == nil && !u.Empty() {
		err = d.store.Save(u, keys)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.r.untake(u)
		d.storeFaultLocked(err)
		return err
	}
	if u.Empty() && d.storeFault == nil {
		return nil
	}
	d.storeFault = nil
	d.r.persisted(time.Now(), u)
	d.stirLocked()
	return nil
}

// mendStoreLocked begins another database where the one that was used is damaged or gone: everything that is known is to be saved again. Where numbers
// could not be reserved it does so now, and has the changes found that had to wait for them.
func (d *Directory) mendStoreLocked() error {
	if !d.store.Usable() {
		damage, err := d.store.Replace(time.Now(), d.r.self.Incarnation, d.r.ceiling)
		if err != nil {
			return err
		}
		d.noteDamageLocked(damage, "another one was written from what this node knows; nothing is lost")
		d.r.ceiling = d.store.Ceiling()
		d.r.saveAll()
	}
	if d.starved {
		if err := d.store.Reserve(d.r.seq); err != nil {
			return err
		}
		d.r.ceiling, d.starved = d.store.Ceiling(), false
		d.rescan.wake()
	}
	return nil
}
