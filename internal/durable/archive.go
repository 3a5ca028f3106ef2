package durable

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// stampLayout names a version by when it was replaced. Stamps sort as their times do.
const stampLayout = "20060102T150405.000000000Z"

// Archive keeps what was overwritten or deleted, as plain files that can be read without this program: the versions
// of live/a/key.pem are live/a/key.pem/20060102T150405.000000000Z under the archive's root. Directories are 0700;
// links are kept as links. A path's versions are limited in number, the number of paths is not: do not keep what
// expires by itself. Its methods may be used from several goroutines.
type Archive struct {
	root    *Root
	keep    int
	mu      sync.Mutex        // held by Keep and Trim: the stamps of a path only grow, and no temporary in the archive is in use
	shelves map[string]*shelf // guarded by mu: what was listed lately, by the path that is kept there
	surplus map[string]bool   // guarded by mu: paths with more versions than are to be kept
}

// shelf is what stands in the directory of one path's versions.
type shelf struct {
	versions []string // newest first
	newest   inode    // of versions[0], as far as that is known
}

// shelvesInMind bounds how many listings are remembered.
const shelvesInMind = 4096

// OpenArchive returns the archive in root, which must hold nothing else and have no other Archive. At least one version
// per path is kept, so that the inode that was replaced last stays alive.
func OpenArchive(root *Root, keep int) *Archive {
	return &Archive{root: root, keep: max(keep, 1), shelves: map[string]*shelf{}, surplus: map[string]bool{}}
}

// Keep archives what stands at name, which stays as it is: call it before name is replaced or removed, and Trim some time after. It is
// a hard link, which keeps the inode alive (nginx >= 1.27.4 takes a file with a reused inode for the old one), or a copy with
// the same modification time, and a mode no wider, where no link can be made (another device, protected_hardlinks) or another one leads
// to the same file already.
// Directories and special files have no content to keep; neither has what is missing. If the newest version is that
// very inode already, it is not kept again.
//
// Linking changes the original's Ctime and Links, and nothing else of its Stat: compare with a Stat that was taken afterwards.
//
// A copy is durable on return. A link is ordered, not synced: it is in the same file system's journal as the rename or
// removal that follows, and earlier.
func (a *Archive) Keep(from *Root, name string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.keepOne(from, name); err != nil {
		delete(a.shelves, name)
		return fmt.Errorf("cannot archive %s: %w", from.full(name), err)
	}
	return nil
}

// Replaced reports whether the archive's directory is not where it was any more.
func (a *Archive) Replaced() bool { return a.root.Replaced() != nil }

// Reopen takes up the directory that stands in the archive's place now.
func (a *Archive) Reopen() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.shelves)
	clear(a.surplus)
	return a.root.Reopen()
}

func (a *Archive) keepOne(from *Root, name string) error {
	parent, base, err := from.parent(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer parent.close()
	original, err := parent.lstat(base)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil || original.Kind != File && original.Kind != Symlink {
		return failure("examine", from.full(name), err)
	}
	dir, err := a.root.Loose().open(shelfOf(name), private) // a shelf is ordered too
	if err != nil {
		return err
	}
	defer dir.close()
	kept, err := a.lookUp(dir, name)
	if err != nil {
		return err
	}
	is := inode{original.Dev, original.Ino}
	if kept.newest == is {
		return nil
	}
	stamp := nextStamp(kept.versions, time.Now())
	shared := original.Kind == File && original.Links > 1 // whoever writes to its other name would write into the archive
	if !shared {
		err = a.root.effect(Effect{Act: ActKeep, Name: shelfOf(name) + "/" + stamp}, func() error {
			return unix.Linkat(int(parent), base, int(dir), stamp, 0) // a symbolic link is linked itself, not followed
		})
	}
	kept.newest = is
	if shared || cannotLink(err) {
		err = a.copy(from, name, original, shelfOf(name)+"/"+stamp)
		kept.newest = inode{}
	}
	if err != nil {
		return err
	}
	kept.versions = append([]string{stamp}, kept.versions...)
	if len(kept.versions) > a.keep {
		a.surplus[name] = true
	}
	return nil
}

// lookUp returns what is known of a shelf, from memory if it was listed before: nobody else changes it.
func (a *Archive) lookUp(dir directory, name string) (*shelf, error) {
	if known := a.shelves[name]; known != nil {
		return known, nil
	}
	versions, err := a.tidy(dir, name)
	if err != nil {
		return nil, err
	}
	found := &shelf{versions: versions}
	if len(versions) > 0 {
		if newest, err := dir.lstat(versions[0]); err == nil {
			found.newest = inode{newest.Dev, newest.Ino}
		}
	}
	if len(a.shelves) >= shelvesInMind {
		clear(a.shelves)
	}
	a.shelves[name] = found
	return found, nil
}

// Trim removes the versions that are more than are to be kept. It is apart from Keep because nobody waits for it: to free an
// inode takes longer than to link one. A crash before it leaves versions that go after the next Keep of their path.
func (a *Archive) Trim() error {
	a.mu.Lock()
	names := slices.Collect(maps.Keys(a.surplus))
	clear(a.surplus)
	a.mu.Unlock()
	var failed []error
	for _, name := range names { // Keep may come in between: somebody waits for it
		failed = append(failed, a.trimOne(name))
	}
	return errors.Join(failed...)
}

func (a *Archive) trimOne(name string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if known := a.shelves[name]; known != nil {
		known.versions = known.versions[:min(a.keep, len(known.versions))]
	}
	dir, err := a.root.open(shelfOf(name), never)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.close()
	versions, err := a.tidy(dir, name)
	if err != nil {
		return err
	}
	for _, old := range versions[min(a.keep, len(versions)):] {
		place := shelfOf(name) + "/" + old
		if err := a.root.effect(Effect{Act: ActTrim, Name: place}, func() error { return dir.remove(old) }); err != nil {
			return failure("remove", a.root.full(place), err)
		}
	}
	return nil
}

// tidy lists the versions of one path, newest first, and removes what a crash left half copied.
func (a *Archive) tidy(dir directory, name string) ([]string, error) {
	names, err := dir.names(a.root.full(shelfOf(name)))
	if err != nil {
		return nil, err
	}
	for _, base := range names {
		if IsTemp(base) {
			// A directory is no copy but the shelf of an oddly named path, and not removed by this.
			err := a.root.effect(Effect{Act: ActTrim, Name: shelfOf(name) + "/" + base}, func() error { return unix.Unlinkat(int(dir), base, 0) })
			if err != nil && !errors.Is(err, unix.EISDIR) {
				return nil, err
			}
		}
	}
	return newestFirst(names), nil
}

func newestFirst(names []string) []string {
	stamps := slices.DeleteFunc(slices.Clone(names), func(base string) bool { return !isStamp(base) })
	slices.Sort(stamps)
	slices.Reverse(stamps)
	return stamps
}

func isStamp(base string) bool {
	_, err := time.Parse(stampLayout, base)
	return err == nil && len(base) == len(stampLayout)
}

// nextStamp is now, or right after the newest version where clocks stand still or go back.
func nextStamp(newestFirst []string, now time.Time) string {
	now = now.UTC()
	if len(newestFirst) > 0 {
		if newest, err := time.Parse(stampLayout, newestFirst[0]); err == nil && !now.After(newest) {
			now = newest.Add(1)
		}
	}
	return now.Format(stampLayout)
}

// shelfOf is the directory with the versions of name. A component that could be taken for a version gets a tilde, and
// one that has tildes after such a text another, so that two names never share a shelf.
func shelfOf(name string) string {
	parts := strings.Split(name, "/")
	for i, part := range parts {
		if isStamp(strings.TrimRight(part, "~")) {
			parts[i] = part + "~"
		}
	}
	return strings.Join(parts, "/")
}

func cannotLink(err error) bool {
	return slices.ContainsFunc([]error{unix.EXDEV, unix.EPERM, unix.EMLINK, unix.EOPNOTSUPP, unix.ENOSYS},
		func(reason error) bool { return errors.Is(err, reason) })
}

func (a *Archive) copy(from *Root, name string, original Stat, version string) error {
	// Only the owner's permissions until it is known to belong to the same group.
	v := Version{Kind: original.Kind, Perm: original.Perm & 0o700, Owner: Owner{UID: original.UID, GID: original.GID}}
	var content io.ReadCloser
	var err error
	if original.Kind == Symlink {
		v.Target, err = from.Readlink(name)
	} else {
		content, err = from.Open(name)
	}
	if err != nil {
		return err
	}
	if content != nil {
		defer content.Close() // nothing was written: no news in its error
	}
	token := rand.Text()
	refused, err := a.root.stage(version, token, v, original.Mtime, content)
	if err != nil {
		return err
	}
	if err := a.root.settle(version, token); err != nil {
		return err
	}
	for dir := dirOf(version); dir != ""; dir = dirOf(dir) { // the shelf may be new
		if err := a.root.SyncDir(dirOf(dir)); err != nil {
			return err
		}
	}
	if original.Kind == Symlink || refused != nil || v.Perm == original.Perm {
		return nil
	}
	_, err = a.root.SetMode(version, original.Perm, AsItIs)
	return err
}

// Versions returns the versions of name, newest first; none is not an error.
func (a *Archive) Versions(name string) ([]string, error) {
	names, err := a.root.ReadDir(shelfOf(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return newestFirst(names), err
}

// Open opens one of the Versions of name; a version that is a symbolic link matches ErrKind.
func (a *Archive) Open(name, version string) (*os.File, error) {
	if !isStamp(version) {
		return nil, fmt.Errorf("%q: %w: a version looks like %s", version, ErrName, stampLayout)
	}
	return a.root.Open(shelfOf(name) + "/" + version)
}
