package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
)

// Shelf is one name in an archive and its versions, newest first; there is at least one.
type Shelf struct {
	Name     string
	Versions []string
}

// Shelves returns every name that has versions, sorted by its bytes. What people put into the archive themselves is not among them.
func (a *Archive) Shelves() ([]Shelf, error) { return a.shelvesIn("", "") }

// shelvesIn reads the directory at place, which holds the versions of name.
func (a *Archive) shelvesIn(place, name string) ([]Shelf, error) {
	names, err := a.root.ReadDir(place)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // it was emptied meanwhile
	}
	if err != nil {
		return nil, err
	}
	var shelves []Shelf
	if versions := newestFirst(names); len(versions) > 0 && name != "" {
		shelves = append(shelves, Shelf{name, versions})
	}
	for _, base := range names {
		if isStamp(base) {
			continue // a name that looks like one has a tilde: see shelfOf
		}
		below := join(place, base)
		st, err := a.root.Lstat(below)
		if errors.Is(err, fs.ErrNotExist) || err == nil && st.Kind != Directory {
			continue
		}
		if err != nil {
			return nil, err
		}
		more, err := a.shelvesIn(below, join(name, nameOn(base)))
		if err != nil {
			return nil, err
		}
		shelves = append(shelves, more...)
	}
	return shelves, nil
}

func join(dir, base string) string {
	if dir == "" {
		return base
	}
	return dir + "/" + base
}

// nameOn undoes shelfOf for one component.
func nameOn(component string) string {
	if isStamp(strings.TrimRight(component, "~")) {
		return strings.TrimSuffix(component, "~")
	}
	return component
}

// ReplacedAt returns when a version was overwritten or deleted: its name says so.
func ReplacedAt(version string) (time.Time, error) {
	if err := versionAllowed(version); err != nil {
		return time.Time{}, err
	}
	return time.Parse(stampLayout, version)
}

func versionAllowed(version string) error {
	if !isStamp(version) {
		return fmt.Errorf("%q: %w: a version looks like %s", version, ErrName, stampLayout)
	}
	return nil
}

// Examine returns what one of the Versions of name is, and the target of one that is a symbolic link. Its mode and owner are those that the
// original had, or a copy could be given: see Keep.
func (a *Archive) Examine(name, version string) (st Stat, target string, err error) {
	if err := versionAllowed(version); err != nil {
		return Stat{}, "", err
	}
	place := shelfOf(name) + "/" + version
	st, err = a.root.Lstat(place)
	if err == nil && st.Kind == Symlink {
		target, err = a.root.Readlink(place)
	}
	return st, target, err
}

// Where returns where one of the Versions of name lies, for people.
func (a *Archive) Where(name, version string) string {
	return a.root.full(shelfOf(name) + "/" + version)
}

// Drop removes one of the Versions of name, if it is there: what stands at name again need not be kept.
func (a *Archive) Drop(name, version string) error {
	if err := versionAllowed(version); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.shelves, name)
	return a.root.Remove(shelfOf(name) + "/" + version)
}
