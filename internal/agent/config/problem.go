package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Error is one thing that is wrong, where it stands, and what to write instead.
type Error struct {
	File    string `json:"file"` // the path as it was given
	Line    int    `json:"line"` // from 1
	Col     int    `json:"column"`
	What    string `json:"what"`
	Instead string `json:"instead"`
}

// Error returns FILE:LINE:COL: what; what to write instead.
func (e Error) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s; %s", e.File, e.Line, e.Col, e.What, e.Instead)
}

// Errors is everything that is wrong, never empty, in the order of the files.
type Errors []Error

// Error returns one line for each.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// AtPlaces says that every line of Error begins with its place: whoever passes it on puts nothing before it.
func (Errors) AtPlaces() {}

// place is where something stands. Lines and columns count from 1; columns count characters, not bytes.
type place struct {
	file      string
	line, col int
}

func (p place) String() string { return fmt.Sprintf("%s:%d:%d", p.file, p.line, p.col) }

// problems collects what is wrong. One error is kept for each value, the first, and none for what is part of a wrong
// value: what follows from an error is noise.
type problems struct {
	files  []string // in the order in which they were given
	unread bool     // a file is wholly missing from the tree
	list   Errors
	bad    map[string]bool // by path: "peers[0].id"
	// open are values that are well as they stand, and may become others when a mistake beside them is mended, by path:
	// of a key that stands twice, or that an unknown one was meant to be. "peers[]" is for items that peers may get.
	open map[string]bool
}

func newProblems() *problems {
	return &problems{bad: make(map[string]bool), open: make(map[string]bool)}
}

// report adds what is wrong at path; "" is for what belongs to no value.
func (p *problems) report(path string, at place, what, instead string) {
	if path != "" {
		if p.wrong(path) {
			return
		}
		p.bad[path] = true
	}
	p.list = append(p.list, Error{at.file, at.line, at.col, what, instead})
}

// wrong reports whether the value at path, or one that it is a part of, is wrong.
func (p *problems) wrong(path string) bool {
	for path != "" {
		if p.bad[path] {
			return true
		}
		path = parent(path)
	}
	return false
}

// parent returns the path of what the value at path is a part of, "" for the whole configuration.
func parent(path string) string { return path[:max(0, strings.LastIndexAny(path, ".["))] }

// under reports whether the value at path or any part of it is wrong. It looks at every problem: not for loops.
func (p *problems) under(path string) bool {
	for bad := range p.bad {
		if rest, found := strings.CutPrefix(bad, path); found && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			return true
		}
	}
	return false
}

// errors returns what was collected in the order of the files, or nil.
func (p *problems) errors() error {
	if len(p.list) == 0 {
		return nil
	}
	slices.SortStableFunc(p.list, func(a, b Error) int {
		return cmp.Or(
			cmp.Compare(slices.Index(p.files, a.File), slices.Index(p.files, b.File)),
			cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Col, b.Col))
	})
	return p.list
}
