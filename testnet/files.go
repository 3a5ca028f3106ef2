package testnet

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// What follows changes a node's files as a person or a program there would, whether the agent is up or not. Paths are relative to the
// replicated directory, slash-separated.

// Path returns where a file of a node lies in the real file system.
func (f *Fleet) Path(i int, file string) string { return filepath.Join(f.nodes[i].files(), file) }

// change does something to a node's disk, and lets the node hear of it at once.
func (f *Fleet) change(i int, do func() error) {
	f.t.Helper()
	if err := errors.Join(do(), f.nodes[i].ears.listen()); err != nil {
		f.t.Fatalf("%s: %v", name(i), err)
	}
}

// Write writes a file (0644) beside its place and renames it there. Directories that it needs are made (0755).
func (f *Fleet) Write(i int, file, content string) {
	f.t.Helper()
	if dir := path.Dir(file); dir != "." {
		f.Mkdir(i, dir)
	}
	draft := path.Join(path.Dir(file), "."+path.Base(file)+".tmp")
	f.change(i, func() error {
		if err := os.WriteFile(f.Path(i, draft), []byte(content), 0o644); err != nil {
			return err
		}
		return os.Rename(f.Path(i, draft), f.Path(i, file))
	})
}

// Mkdir makes a directory (0755) and whatever is missing above it.
func (f *Fleet) Mkdir(i int, dir string) {
	f.t.Helper()
	for k, c := range dir + "/" {
		if c != '/' {
			continue
		}
		part := dir[:k]
		if _, err := os.Lstat(f.Path(i, part)); errors.Is(err, fs.ErrNotExist) {
			f.change(i, func() error { return os.Mkdir(f.Path(i, part), 0o755) })
		}
	}
}

// Symlink makes a link, or replaces what is there and can be replaced by a rename.
func (f *Fleet) Symlink(i int, target, link string) {
	f.t.Helper()
	draft := path.Join(path.Dir(link), "."+path.Base(link)+".tmp")
	f.change(i, func() error {
		if err := os.Symlink(target, f.Path(i, draft)); err != nil {
			return err
		}
		return os.Rename(f.Path(i, draft), f.Path(i, link))
	})
}

// Remove removes files, links and trees.
func (f *Fleet) Remove(i int, files ...string) {
	f.t.Helper()
	for _, file := range files {
		f.change(i, func() error { return os.RemoveAll(f.Path(i, file)) })
	}
}

// Rename moves a file, link or directory.
func (f *Fleet) Rename(i int, from, to string) {
	f.t.Helper()
	f.change(i, func() error { return os.Rename(f.Path(i, from), f.Path(i, to)) })
}

// Chmod changes the mode of a file or directory.
func (f *Fleet) Chmod(i int, file string, mode fs.FileMode) {
	f.t.Helper()
	f.change(i, func() error { return os.Chmod(f.Path(i, file), mode) })
}

// Touch changes the modification time of a file to some time in the past, and nothing else.
func (f *Fleet) Touch(i int, file string) {
	f.t.Helper()
	then := time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)
	f.change(i, func() error { return os.Chtimes(f.Path(i, file), then, then) })
}

// Overflow tells a node's agent that hints were lost.
func (f *Fleet) Overflow(i int) { f.nodes[i].ears.overflow() }

// Read returns the content of a node's file. ok is false when nothing is there.
func (f *Fleet) Read(i int, file string) (content string, ok bool) {
	f.t.Helper()
	text, err := os.ReadFile(f.Path(i, file))
	if errors.Is(err, fs.ErrNotExist) {
		return "", false
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return string(text), true
}

// Archived returns the earlier versions of a file that a node kept, the latest first.
func (f *Fleet) Archived(i int, file string) []string {
	f.t.Helper()
	shelf := filepath.Join(f.nodes[i].state(), "archive", directory, file)
	versions, err := os.ReadDir(shelf)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.t.Fatal(err)
	}
	slices.SortFunc(versions, func(a, b fs.DirEntry) int { return cmp.Compare(b.Name(), a.Name()) })
	var out []string
	for _, v := range versions {
		if v.Type().IsRegular() {
			text, err := os.ReadFile(filepath.Join(shelf, v.Name()))
			if err != nil {
				f.t.Fatal(err)
			}
			out = append(out, string(text))
		}
	}
	return out
}

// Tree returns everything in a node's directory, by path: what ls -l would say of it but for the times, and its content.
func (f *Fleet) Tree(i int) map[string]string {
	f.t.Helper()
	tree := map[string]string{}
	root := f.nodes[i].files()
	err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err != nil || p == root {
			return err
		}
		below, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		tree[below], err = Describe(p)
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return tree
}

func Describe(p string) (string, error) {
	info, err := os.Lstat(p)
	if err != nil {
		return "", err
	}
	words := []string{info.Mode().String(), ownerOf(info)}
	switch info.Mode().Type() {
	case 0:
		text, err := os.ReadFile(p)
		if err != nil {
			return "", err
		}
		words = append(words, string(text))
	case fs.ModeSymlink:
		target, err := os.Readlink(p)
		if err != nil {
			return "", err
		}
		words = append(words, "-> "+target)
	}
	return strings.Join(words, " "), nil
}
