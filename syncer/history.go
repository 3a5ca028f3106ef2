package syncer

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"certswarm/internal/durable"
	"certswarm/internal/fleet"
	"certswarm/syncer/index"
)

// Kept is one earlier version of a path, in this node's archive.
type Kept struct {
	Version  string        // its name among the versions of the path
	Replaced time.Time     // when it was overwritten or deleted here
	Content  index.Content // a File or a Symlink
	Place    string        // where it lies in the file system
}

// KeptPath is a path that has earlier versions.
type KeptPath struct {
	Path     index.Path
	Versions int
	Newest   time.Time // when the latest of them was replaced
}

// Pick is one version that is to be restored.
type Pick struct {
	Path    index.Path
	Version string
}

// Errors of Restore that callers explain; test with errors.Is.
var (
	ErrNotWriter = errors.New("this node may not write there")
	ErrLeased    = errors.New("it belongs to the holder of the lease")
	ErrReserved  = errors.New("it is each node's own and not replicated")
	ErrHalted    = errors.New("the directory is halted")
)

// KeptPaths returns every path of which this node has earlier versions, sorted.
func (d *Directory) KeptPaths() ([]KeptPath, error) {
	shelves, err := d.archive.Shelves()
	if err != nil {
		return nil, err
	}
	out := make([]KeptPath, 0, len(shelves))
	for _, s := range shelves {
		p, err := index.ParsePath(s.Name)
		if err != nil {
			continue // people put it there
		}
		at, err := durable.ReplacedAt(s.Versions[0])
		if err != nil {
			return nil, err
		}
		out = append(out, KeptPath{p, len(s.Versions), at})
	}
	return out, nil
}

// History returns the earlier versions of p that this node has, newest first.
func (d *Directory) History(p index.Path) ([]Kept, error) {
	versions, err := d.archive.Versions(p.String())
	if err != nil {
		return nil, err
	}
	var out []Kept
	for _, version := range versions {
		k, err := d.examine(p, version)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it gave way to a newer one
		}
		if err != nil {
			return nil, err
		}
		out = append(out, k)
	}
	return out, nil
}

func (d *Directory) examine(p index.Path, version string) (Kept, error) {
	at, err := durable.ReplacedAt(version)
	if err != nil {
		return Kept{}, err
	}
	stat, target, err := d.archive.Examine(p.String(), version)
	if err != nil {
		return Kept{}, err
	}
	k := Kept{Version: version, Replaced: at, Place: d.archive.Where(p.String(), version)}
	if stat.Kind == durable.Symlink {
		k.Content = index.Symlink{Target: target}
		return k, nil
	}
	f, err := d.archive.Open(p.String(), version)
	if err != nil {
		return Kept{}, err
	}
	defer f.Close() // nothing was written: no news in its error
	hash := sha256.New()
	size, err := io.Copy(hash, f)
	k.Content = d.fileOf(stat, index.Digest(hash.Sum(nil)), size)
	return k, err
}

func (d *Directory) fileOf(stat durable.Stat, digest index.Digest, size int64) index.File {
	return index.File{
		Digest: digest, Size: size, Perm: index.Perm(stat.Perm),
		Owner: d.disk.owners.user(stat.UID), Group: d.disk.owners.group(stat.GID),
	}
}

// ReadKept returns the content of an earlier version of at most limit bytes.
func (d *Directory) ReadKept(p index.Path, version string, limit int64) ([]byte, error) {
	f, err := d.archive.Open(p.String(), version)
	if err != nil {
		return nil, err
	}
	defer f.Close() // nothing was written: no news in its error
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("it has more than %d bytes", limit)
	}
	return data, err
}

// ReadTarget returns what a symbolic link at p with this target leads to, if that is a file in the directory.
func (d *Directory) ReadTarget(p index.Path, target string, limit int64) ([]byte, error) {
	to, inside := p.Resolve(target)
	if !inside {
		return nil, fs.ErrNotExist
	}
	return d.disk.root.ReadFile(to.String(), limit)
}

// Restore puts earlier versions back in one batch, as writes of this node's own and of now, with the mode and owner that the archive
// has. What they replace goes to the archive in turn, here and elsewhere. It returns the paths that were written: what stands as it was
// asked for is not. On an error nothing was restored, and every version is in the archive still.
func (d *Directory) Restore(picks ...Pick) ([]index.Path, error) {
	for _, pick := range picks {
		if err := d.mayRestore(pick.Path); err != nil {
			return nil, fmt.Errorf("%s: %w", pick.Path, err)
		}
	}
	var writes []Write
	for _, pick := range picks {
		w, err := d.take(pick)
		if err != nil {
			return nil, fmt.Errorf("version %s of %s: %w", pick.Version, pick.Path, err)
		}
		if !d.stands(w) {
			writes = append(writes, w)
		}
	}
	if len(writes) == 0 {
		return nil, nil
	}
	if _, err := d.Publish(fleet.Epoch{}, writes...); err != nil {
		return nil, err
	}
	paths := make([]index.Path, len(writes))
	for i, w := range writes {
		paths[i] = w.Path
	}
	if d.Observed != nil {
		d.Observed(paths)
	}
	return paths, nil
}

// mayRestore says why nothing can be restored at p, nil if it can. What was written under a lease is beaten only by what is: a write
// without one would lose everywhere and be reverted here.
func (d *Directory) mayRestore(p index.Path) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.r.x.Lookup(p)
	switch {
	case !d.MayWrite(d.r.self.Node):
		return ErrNotWriter
	case d.Reserved(p):
		return ErrReserved
	case d.r.halt != "":
		return ErrHalted
	case e != nil && !e.Stamp.Epoch.IsZero():
		return ErrLeased
	case d.disk.ignored.match(p):
		return errors.New("it is among what the configuration ignores, so that it would not be replicated")
	}
	if e := d.r.x.Live(p); e != nil {
		if _, directory := e.Content.(index.Directory); directory {
			return errors.New("a directory stands there now: move it away first")
		}
	}
	return nil
}

// take makes a write of what the archive has.
func (d *Directory) take(pick Pick) (Write, error) {
	stat, target, err := d.archive.Examine(pick.Path.String(), pick.Version)
	if err != nil {
		return Write{}, err
	}
	if stat.Kind == durable.Symlink {
		if to, inside := pick.Path.Resolve(target); !inside || d.disk.ignored.match(to) {
			return Write{}, fmt.Errorf("a link to %s, which is outside of what is replicated", target)
		}
		return Write{Path: pick.Path, Link: target}, nil
	}
	if stat.Size > d.MaxFile {
		return Write{}, fmt.Errorf("%d bytes; max_file_size is %d", stat.Size, d.MaxFile)
	}
	data, err := d.ReadKept(pick.Path, pick.Version, d.MaxFile)
	return Write{
		Path: pick.Path, Data: data, Perm: index.Perm(stat.Perm),
		Owner: d.disk.owners.user(stat.UID), Group: d.disk.owners.group(stat.GID),
	}, err
}

// stands reports whether the disk and the fleet have already what is to be written.
func (d *Directory) stands(w Write) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	e, seen := d.r.x.Live(w.Path), d.seen[w.Path]
	if e == nil || !d.disk.owners.same(e.Content, d.contentOf(w)) {
		return false
	}
	now, err := d.disk.root.Lstat(w.Path.String())
	return err == nil && now == seen
}

// putBackLocked brings what the fleet has at a path back from the archive, where it was kept when something took its place a moment ago, and
// takes it out there: a publication that fails costs no old version. What cannot be brought back is an edit that is noticed.
func (d *Directory) putBackLocked(e *index.Entry) error {
	name := e.Path.String()
	v := durable.Version{Owner: durable.AsItIs}
	var content io.Reader
	versions, err := d.archive.Versions(name)
	if err != nil || len(versions) == 0 {
		return err
	}
	kept, err := d.examine(e.Path, versions[0])
	if err != nil {
		return err
	}
	switch c := e.Content.(type) {
	case index.Symlink:
		if kept.Content != e.Content {
			return nil
		}
		v.Kind, v.Target = durable.Symlink, c.Target
	case index.File:
		if f, file := kept.Content.(index.File); !file || f.Digest != c.Digest {
			return nil
		}
		f, err := d.archive.Open(name, versions[0])
		if err != nil {
			return err
		}
		defer f.Close() // nothing was written: no news in its error
		v.Kind, v.Perm, v.Owner = durable.File, uint32(c.Perm), d.disk.owners.wanted(c.Owner, c.Group)
		content = &verifying{source: io.LimitReader(f, c.Size+1), want: c, sum: sha256.New()}
	default:
		return nil
	}
	token := newToken()
	warn, err := d.disk.root.Stage(name, token, v, content)
	d.noteOwnershipLocked(e.Path, warn)
	if err != nil {
		return fmt.Errorf("what was there cannot be put back: %w", err)
	}
	if err := d.disk.root.Place(name, token); err != nil {
		return errors.Join(err, d.disk.root.Unstage(name, token))
	}
	d.rememberWrittenLocked(e)
	if err := d.disk.root.SyncDir(rootOr(e.Path.Parent())); err != nil {
		return err
	}
	return d.archive.Drop(name, versions[0])
}
