// Package index is what the fleet knows about every path of one replicated directory, and the rules by which that
// knowledge grows: what a scan of the disk adds to it (Observe), which of two versions wins (Merge), what must be done to a
// disk to follow (MakePlan), and when a deletion is too large to believe (Suspicious).
//
// It is pure: it opens no file, reads no clock and knows no network. How entries travel is package wire's, when they do is
// package syncer's.
package index

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// Limits of a path, in bytes. Longer names exist on no file system that serves nginx.
const (
	MaxPath      = 1024
	MaxComponent = 255 // NAME_MAX, limits.h(0p)
	MaxDepth     = 64
)

// Path names one thing below a replicated root: slash-separated, relative, clean, never empty, without "..". A Path in hand
// is valid; bytes that are not UTF-8 are kept as they are, for file systems do not care either.
type Path struct{ text string }

// ParsePath is the only way to make a Path; everything that comes from a disk, a peer or an operator passes here.
func ParsePath(text string) (Path, error) {
	switch {
	case text == "" || text == ".":
		return Path{}, errors.New("an empty path")
	case len(text) > MaxPath:
		return Path{}, fmt.Errorf("a path of %d bytes; the limit is %d", len(text), MaxPath)
	case strings.IndexByte(text, 0) >= 0:
		return Path{}, errors.New("a path with a NUL byte")
	case text[0] == '/':
		return Path{}, errors.New("an absolute path")
	case path.Clean(text) != text || text == ".." || strings.HasPrefix(text, "../"):
		return Path{}, fmt.Errorf("%q leaves the directory or is not clean", text)
	}
	components := strings.Split(text, "/")
	if len(components) > MaxDepth {
		return Path{}, fmt.Errorf("a path %d directories deep; the limit is %d", len(components), MaxDepth)
	}
	for _, c := range components {
		if len(c) > MaxComponent {
			return Path{}, fmt.Errorf("a name of %d bytes in a path; the limit is %d", len(c), MaxComponent)
		}
	}
	return Path{text}, nil
}

// MustPath is ParsePath for texts that the program itself wrote.
func MustPath(text string) Path {
	p, err := ParsePath(text)
	if err != nil {
		panic("index: " + err.Error())
	}
	return p
}

// String returns the path as it is spelled on disk.
func (p Path) String() string { return p.text }

// IsZero reports whether p is no path at all: the root's own place.
func (p Path) IsZero() bool { return p.text == "" }

// Base returns the last component.
func (p Path) Base() string { return p.text[strings.LastIndexByte(p.text, '/')+1:] }

// Parent returns the directory that p stands in; the zero Path for the root.
func (p Path) Parent() Path {
	i := strings.LastIndexByte(p.text, '/')
	if i < 0 {
		return Path{}
	}
	return Path{p.text[:i]}
}

// Join returns the path of name inside p; p may be the zero Path.
func (p Path) Join(name string) (Path, error) {
	if strings.IndexByte(name, '/') >= 0 {
		return Path{}, fmt.Errorf("%q is not one name", name)
	}
	if p.IsZero() {
		return ParsePath(name)
	}
	return ParsePath(p.text + "/" + name)
}

// Under reports whether p is dir or stands anywhere below it; everything is under the zero Path.
func (p Path) Under(dir Path) bool {
	return dir.IsZero() || p == dir || strings.HasPrefix(p.text, dir.text) && p.text[len(dir.text)] == '/'
}

func (p Path) depth() int { return strings.Count(p.text, "/") }

// Escapes reports whether a symbolic link at p with this target leads out of the root: an absolute target does, and so
// does one with more ".." than there are directories above it. What can be no target, or is longer than MaxPath, leads nowhere inside either.
func (p Path) Escapes(target string) bool {
	if target == "" || target[0] == '/' || len(target) > MaxPath || strings.IndexByte(target, 0) >= 0 {
		return true
	}
	depth := p.depth()
	for component := range strings.SplitSeq(target, "/") {
		switch component {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return true
			}
		default:
			depth++
		}
	}
	return false
}

// Resolve returns where a symbolic link at p with this target points, taken as text; false where it leads out of the root, to the root itself, or
// to where no Path does.
func (p Path) Resolve(target string) (Path, bool) {
	to, err := p.Follow(target)
	return to, err == nil
}

// The errors of Follow, but for those of ParsePath.
var (
	ErrEscapes = errors.New("it leaves the directory")
	ErrToRoot  = errors.New("it leads to the replicated directory itself")
)

// Follow is Resolve, and says why a link leads nowhere.
func (p Path) Follow(target string) (Path, error) {
	if len(target) > MaxPath {
		return Path{}, fmt.Errorf("its target has %d bytes; the limit is %d", len(target), MaxPath)
	}
	if p.Escapes(target) {
		return Path{}, ErrEscapes
	}
	to := path.Join(p.Parent().text, target)
	if to == "." || to == "" {
		return Path{}, ErrToRoot
	}
	at, err := ParsePath(to)
	if err != nil {
		return Path{}, fmt.Errorf("it leads to %w", err)
	}
	return at, nil
}
