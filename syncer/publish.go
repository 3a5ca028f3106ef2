package syncer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"certswarm/internal/durable"
	"certswarm/internal/fleet"
	"certswarm/syncer/index"
	"certswarm/syncer/wire"
)

// Write is one path of a batch that the program itself publishes: a file, a link, or a deletion.
type Write struct {
	Path      index.Path
	Data      []byte // of a file
	Perm      index.Perm
	Owner     string // by name; "": the agent's own user
	Group     string
	Link      string // target; makes the path a symbolic link
	Directory bool
	Delete    bool
	Expires   time.Time // when it vanishes everywhere by itself, a deletion's trace too; zero: never
}

// Receipt identifies a published batch, to be awaited.
type Receipt struct {
	Origin index.Origin
	Seq    uint64
}

// Publish makes a batch visible on this disk and owes it to the fleet; directories that it needs are part of it. It is written
// under epoch, which must be the zero Epoch unless this node holds the lease. When it returns the batch is here, whole; see Await for the others. On
// an error nothing is published, and what was made of it is taken back. A crash leaves nothing of it, or all: recoverLocked publishes it then.
func (d *Directory) Publish(epoch fleet.Epoch, writes ...Write) (Receipt, error) {
	if !d.MayWrite(d.r.self.Node) {
		return Receipt{}, fmt.Errorf("nothing can be published: this node is not one of the writers of %s", d.Name)
	}
	defer d.trim()
	writes = append(d.missingParents(writes), writes...)
	entries := make([]*index.Entry, 0, len(writes))
	for _, w := range writes {
		entries = append(entries, &index.Entry{
			Path: w.Path, Origin: d.r.self, Content: d.contentOf(w),
			Expires: expiry(w), Stamp: index.Stamp{Written: true, Epoch: epoch, Node: d.r.self.Node},
		})
	}
	token := newToken()
	staged := map[*index.Entry]string{}
	defer func() {
		for e, name := range staged {
			if err := d.disk.root.Unstage(e.Path.String(), name); err != nil {
				d.log.Warn("a temporary file is left behind", "error", err)
			}
		}
	}()
	for i, e := range entries {
		if _, directory := e.Content.(index.Directory); directory || e.Deleted() || d.Reserved(e.Path) {
			continue
		}
		name := stagedAs(token, e)
		warn, err := d.stageOne(d.disk.root, e, name, bytes.NewReader(writes[i].Data))
		d.noteOwnership(e.Path, warn)
		if err != nil {
			return Receipt{}, fmt.Errorf("%s cannot be published: %w", e.Path, err)
		}
		staged[e] = name
	}

	d.mu.Lock()
	defer d.mu.Unlock()
	d.reserveLocked(len(entries))
	if !d.r.room(len(entries)) {
		return Receipt{}, errors.New("nothing can be published: the state database cannot be written")
	}
	now := time.Now()
	for _, e := range entries {
		e.Stamp.HLC = d.r.tickClock(now)
	}
	d.r.number(entries)
	err := d.intendLocked(token, entries)
	dirs := map[index.Path]bool{}
	placed := 0
	for _, e := range entries {
		if err != nil {
			break
		}
		if err = d.placeOwnLocked(e, staged[e], dirs); err != nil {
			err = fmt.Errorf("%s cannot be published: %w", e.Path, err)
			break
		}
		placed++
	}
	for dir := range dirs {
		if err == nil {
			err = d.disk.root.SyncDir(rootOr(dir))
		}
	}
	if err != nil {
		if placed < len(entries) && d.tookPlaceLocked(entries[placed], staged[entries[placed]]) {
			placed++
		}
		return Receipt{}, errors.Join(err, d.takeBackLocked(entries[:placed]), d.publishing().Write(nil, true))
	}
	d.r.adopt(entries)
	for i, e := range entries {
		if f, ok := e.Content.(index.File); ok && f.Size <= wire.MaxInline {
			d.cache.put(f.Digest, writes[i].Data)
		}
	}
	d.stirLocked()
	return Receipt{Origin: d.r.self, Seq: d.r.seq}, nil
}

// tookPlaceLocked reports whether an entry is on the disk although that is said to have failed.
func (d *Directory) tookPlaceLocked(e *index.Entry, staged string) bool {
	_, err := d.disk.root.Lstat(e.Path.String())
	if staged != "" {
		_, err = d.disk.root.Staged(e.Path.String(), staged)
	}
	return (staged != "" || e.Deleted()) && errors.Is(err, fs.ErrNotExist)
}

// publishing is the intent of Publish; the others are the appliers'.
func (d *Directory) publishing() *durable.Intent { return d.intents[appliers] }

// intendLocked is COMMIT 2 for what is published here: it is wholly staged. One path that stays is seen all at once anyway and needs no intent; what
// expires does, for nobody could tell that it does if it was found on the disk.
func (d *Directory) intendLocked(token string, entries []*index.Entry) error {
	stays, expires := 0, 0
	for _, e := range entries {
		if _, directory := e.Content.(index.Directory); directory || d.Reserved(e.Path) {
			continue
		}
		if e.Expires == 0 {
			stays++
		} else {
			expires++
		}
	}
	if stays < 2 && expires == 0 {
		return nil
	}
	return d.publishing().Write(intentOf(token, entries), stays > 0)
}

// takeBackLocked removes what a publication that failed had made already, the latest first, and puts back what it had replaced, so that
// nobody takes half of it for somebody's work.
func (d *Directory) takeBackLocked(entries []*index.Entry) error {
	var errs []error
	for _, e := range slices.Backward(entries) {
		if d.Reserved(e.Path) {
			continue
		}
		if old := d.r.x.Live(e.Path); old != nil {
			errs = append(errs, d.putBackLocked(old))
			continue
		}
		if e.Deleted() {
			continue
		}
		errs = append(errs, d.disk.root.Remove(e.Path.String()))
		delete(d.seen, e.Path)
	}
	return errors.Join(errs...)
}

// missingParents returns the directories above the writes that the fleet does not have yet, parents first.
func (d *Directory) missingParents(writes []Write) []Write {
	d.mu.Lock()
	defer d.mu.Unlock()
	var missing []Write
	named := map[index.Path]bool{}
	for _, w := range writes {
		if w.Delete {
			continue
		}
		var above []Write
		for dir := w.Path.Parent(); !dir.IsZero() && !named[dir] && d.r.x.Live(dir) == nil; dir = dir.Parent() {
			named[dir] = true
			above = append(above, Write{Path: dir, Directory: true, Perm: 0o755})
		}
		slices.Reverse(above)
		missing = append(missing, above...)
	}
	return missing
}

func expiry(w Write) int64 {
	if w.Expires.IsZero() {
		return 0
	}
	return w.Expires.UnixMilli()
}

func (d *Directory) contentOf(w Write) index.Content {
	switch {
	case w.Delete:
		return index.Tombstone{}
	case w.Link != "":
		return index.Symlink{Target: w.Link}
	}
	owner, group := w.Owner, w.Group
	if owner == "" {
		owner = d.disk.owners.user(os.Geteuid())
	}
	if group == "" {
		group = d.disk.owners.group(os.Getegid())
	}
	if w.Directory {
		return index.Directory{Perm: w.Perm, Owner: owner, Group: group}
	}
	return index.File{
		Digest: sha256.Sum256(w.Data), Size: int64(len(w.Data)), Perm: w.Perm, Owner: owner, Group: group,
	}
}

func (d *Directory) placeOwnLocked(e *index.Entry, staged string, dirs map[index.Path]bool) error {
	if d.Reserved(e.Path) {
		return nil
	}
	if e.Expires == 0 {
		if err := d.archive.Keep(d.disk.root, e.Path.String()); err != nil {
			return err
		}
		dirs[e.Path.Parent()] = true
	}
	var err error
	switch c := e.Content.(type) {
	case index.Tombstone:
		err = d.disk.root.Remove(e.Path.String())
		if errors.Is(err, durable.ErrNotEmpty) { // what is not replicated is in it; it stays, and is noticed as new
			d.rescan.wake()
			err = nil
		}
	case index.Directory:
		_, err = d.disk.root.MkDir(e.Path.String(), uint32(c.Perm), durable.AsItIs)
	default:
		err = d.disk.root.Place(e.Path.String(), staged)
	}
	if err != nil {
		return err
	}
	d.rememberWrittenLocked(e)
	return nil
}

// Await returns when enough of the members hold the batch durably; have lists those that do, this node included. It
// ends with ctx's error otherwise.
func (d *Directory) Await(ctx context.Context, r Receipt, enough func(have []fleet.NodeID) bool) error {
	for {
		d.mu.Lock()
		changed := d.changed
		have := d.haveLocked(r)
		d.mu.Unlock()
		if enough(have) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

func (d *Directory) haveLocked(r Receipt) []fleet.NodeID {
	var have []fleet.NodeID
	if d.r.durable[r.Origin] >= r.Seq {
		have = append(have, d.r.self.Node)
	}
	for id, v := range d.r.peers {
		if v.acked[r.Origin] >= r.Seq && !d.r.refuses(id, r) {
			have = append(have, id)
		}
	}
	return have
}

// Changed returns a channel that is closed at the next change of anything that Status tells.
func (d *Directory) Changed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changed
}

// Lookup returns what the fleet has at p, nil if nothing is there.
func (d *Directory) Lookup(p index.Path) *index.Entry {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.r.x.Live(p)
}

// LatestEpoch returns the latest lease epoch that anything here was written under.
func (d *Directory) LatestEpoch() fleet.Epoch {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.r.epoch
}

// Find returns what the fleet has directly in dir.
func (d *Directory) Find(dir index.Path) []*index.Entry {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []*index.Entry
	for e := range d.r.x.Children(dir) {
		out = append(out, e)
	}
	return out
}

// ReceiptFor returns the receipt by which an entry can be awaited.
func ReceiptFor(e *index.Entry) Receipt { return Receipt{Origin: e.Origin, Seq: e.Seq} }

// ReadFile returns a file of at most limit bytes as it is on this node's disk.
func (d *Directory) ReadFile(p index.Path, limit int64) ([]byte, error) {
	return d.disk.root.ReadFile(p.String(), limit)
}

// Root gives access to the directory's disk, for what is Reserved. Whoever uses it changes only that.
func (d *Directory) Root() *durable.Root { return d.disk.root }

// Displace puts a symbolic link where a real directory stands, for what is Reserved; what was in the directory is in the archive
// first. Nothing happens where no directory stands.
func (d *Directory) Displace(p index.Path, target string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	stat, err := d.disk.root.Lstat(p.String())
	if errors.Is(err, fs.ErrNotExist) || err == nil && stat.Kind != durable.Directory {
		return nil
	}
	if err == nil {
		err = d.clearLocked(p)
	}
	if err == nil { // a crash before this line leaves an empty directory, over which the same call puts the link
		err = d.disk.root.ReplaceSymlink(p.String(), target)
	}
	return err
}

// LocalOwner returns whom the directory's policy gives files to on this node, durable.AsItIs without a policy.
func (d *Directory) LocalOwner() durable.Owner {
	if d.disk.owners.policy != nil {
		return *d.disk.owners.policy
	}
	return durable.AsItIs
}

// ErrNotHalted says that there is no halt to end.
var ErrNotHalted = errors.New("the directory is not halted")

// Resume ends a halt. With accept what differs on this disk goes out to the fleet, deletions included; without, the fleet's files are put back
// here.
func (d *Directory) Resume(ctx context.Context, accept bool) error {
	if d.halted() == "" {
		return ErrNotHalted
	}
	return d.inspect(ctx, true, func(s *survey) []index.Path {
		d.verifyScanLocked(s)
		if accept {
			d.settleLocked(s) // what is put back need not be whole
		}
		d.noteSurveyLocked(s)
		d.reserveLocked(d.r.x.Len() + len(s.Found))
		d.r.resume(time.Now(), s.Scan, accept)
		d.stirLocked()
		return nil
	})
}

func (d *Directory) halted() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.r.halt
}

// Rescan reads everything again and returns when what is on the disk by now is known, and on its way. What is held for a moment is waited for,
// until it goes out or is reported: pairs.Patience at the most.
func (d *Directory) Rescan(ctx context.Context) error {
	if err := d.inspect(ctx, false, func(s *survey) []index.Path { return d.takeScanLocked(s) }); err != nil {
		return err
	}
	for asked := time.Now(); ; {
		d.mu.Lock()
		changed, wait := d.changed, d.momentLocked(asked)
		d.mu.Unlock()
		if wait <= 0 {
			return nil
		}
		moment := time.NewTimer(wait)
		select {
		case <-moment.C:
		case <-changed:
		case <-d.ended:
			return d.whyEnded()
		case <-ctx.Done():
			return ctx.Err()
		}
		moment.Stop()
	}
}

var errEnded = errors.New("the agent is ending or taking a new configuration; try again")

// whyEnded says why nobody looks any more. After what matches ErrRejoin another Syncer is about to be there, whatever directory it was that began anew.
func (d *Directory) whyEnded() error {
	if d.anew.Load() {
		return fmt.Errorf("%w; try again in a moment", ErrRejoin)
	}
	return errEnded
}

// inspect has everything read again and hands it to do, under the lock. See inspection for decides.
func (d *Directory) inspect(ctx context.Context, decides bool, do func(*survey) []index.Path) error {
	i := inspection{decides: decides, do: do, done: make(chan error, 1)}
	select {
	case d.inspections <- i:
	case <-d.ended:
		return d.whyEnded()
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-i.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
