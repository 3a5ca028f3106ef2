package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// File is a file at a path below some directory.
type File struct {
	Path    string
	Content []byte
	Perm    fs.FileMode
}

// Tree is files, in the order in which they are written.
type Tree []File

// prepared is a file that only lacks its name.
type prepared struct{ temporary, name string }

func (f File) prepare(dir string) (prepared, error) {
	name := filepath.Join(dir, f.Path)
	temporary := filepath.Join(filepath.Dir(name), "."+filepath.Base(name)+".tmp")
	return prepared{temporary, name}, os.WriteFile(temporary, f.Content, f.Perm)
}

func (p prepared) rename() error { return os.Rename(p.temporary, p.name) }

// Write writes the files below dir, each as programs do it that care: whole, or not at all. Nothing is synced.
func (t Tree) Write(dir string) error {
	made := ""
	for _, f := range t {
		if parent := filepath.Dir(filepath.Join(dir, f.Path)); parent != made {
			if err := os.MkdirAll(parent, 0o755); err != nil {
				return err
			}
			made = parent
		}
		file, err := f.prepare(dir)
		if err != nil {
			return err
		}
		if err := file.rename(); err != nil {
			return err
		}
	}
	return nil
}

// Floor is what it costs to write the files below dir, durably, if there were nothing else to do.
func (t Tree) Floor(dir string) (time.Duration, error) {
	begun := time.Now()
	if err := t.Write(dir); err != nil {
		return 0, err
	}
	if err := SyncDisk(dir); err != nil {
		return 0, err
	}
	return time.Since(begun), nil
}

// SyncDisk makes durable all that is on the file system of dir. What is about to be measured need not pay for what was
// written before.
func SyncDisk(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}

// Paths returns where the files are below each of the directories.
func (t Tree) Paths(dirs ...string) []string {
	var all []string
	for _, dir := range dirs {
		for _, f := range t {
			all = append(all, filepath.Join(dir, f.Path))
		}
	}
	return all
}

// Below returns the directories that hold the files below each of the directories.
func (t Tree) Below(dirs ...string) []string {
	var all []string
	for _, path := range t.Paths(dirs...) {
		if parent := filepath.Dir(path); len(all) == 0 || all[len(all)-1] != parent {
			all = append(all, parent)
		}
	}
	return all
}

// AwaitAll returns when the last of the files is below dir.
func (t Tree) AwaitAll(ctx context.Context, dir string) error {
	const pause = 10 * time.Millisecond // to look more often would cost those who are measured
	missing := t
	for {
		for len(missing) > 0 {
			if _, err := os.Lstat(filepath.Join(dir, missing[0].Path)); err != nil {
				break
			}
			missing = missing[1:]
		}
		if len(missing) == 0 {
			return nil
		}
		if err := sleep(ctx, pause); err != nil {
			return fmt.Errorf("%s is not in %s: %w", missing[0].Path, dir, err)
		}
	}
}

// Verify returns an error unless dir holds exactly these files, with these contents and permissions. What begins with a dot at
// the top is the replication's own.
func (t Tree) Verify(dir string) error {
	wanted := make(map[string]File, len(t))
	for _, f := range t {
		wanted[f.Path] = f
	}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		below, err := filepath.Rel(dir, path)
		switch {
		case err != nil:
			return err
		case strings.HasPrefix(below, ".") && entry.IsDir():
			return fs.SkipDir
		case strings.HasPrefix(below, ".") || entry.IsDir():
			return nil
		}
		want, ok := wanted[below]
		if !ok {
			return fmt.Errorf("%s should not be there", path)
		}
		delete(wanted, below)
		return want.verify(path)
	})
	if err != nil {
		return err
	}
	for path := range wanted {
		return fmt.Errorf("%s lacks %s, and in all %d files", dir, path, len(wanted))
	}
	return nil
}

func (f File) verify(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if info.Mode() != f.Perm {
		return fmt.Errorf("%s has mode %v, not %v", path, info.Mode(), f.Perm)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !bytes.Equal(content, f.Content) {
		return fmt.Errorf("%s has %d bytes that are not the %d that were written", path, len(content), len(f.Content))
	}
	return nil
}

// Over returns the tree after later was written over it.
func (t Tree) Over(earlier Tree) Tree {
	at := make(map[string]int, len(earlier))
	all := append(Tree(nil), earlier...)
	for i, f := range all {
		at[f.Path] = i
	}
	for _, f := range t {
		if i, ok := at[f.Path]; ok {
			all[i] = f
		} else {
			all = append(all, f)
		}
	}
	return all
}
