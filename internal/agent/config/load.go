package config

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// maxFile is the largest configuration file that is read, in bytes: hundreds of nodes and thousands of certificates.
const maxFile = 1 << 20

// Load reads the files in the given order as one configuration: maps merge, the lists peers, directories and
// certificates are joined, and anything else that two files say is an error. The error is an Errors.
func Load(files []string) (*Config, error) {
	sources, p := open(files)
	return build(sources, p, whole)
}

// LoadWithConfD loads file and then conf.d/*.yaml beside it in lexical order, as the daemon does.
func LoadWithConfD(file string) (*Config, error) {
	sources, p := openWithConfD(file)
	return build(sources, p, whole)
}

// CheckFragment says what is wrong with file taken alone: other files may hold what it lacks and what it refers to. The
// error is an Errors.
func CheckFragment(file string) error {
	sources, p := open([]string{file})
	_, err := build(sources, p, fragment)
	return err
}

// ControlSocketOf returns the control socket that file and its conf.d/ name, whatever else is wrong with them, else
// DefaultControlSocket: a command must reach the daemon also while its next configuration is being mended. The error is
// nil unless that default is a guess, because something could not be read that may name another.
func ControlSocketOf(file string) (socket string, err error) {
	const key = "control_socket"
	sources, p := openWithConfD(file)
	for _, s := range sources {
		trees := parse([]source{s}, p)
		if len(trees) == 0 {
			trees = parse([]source{topLines(s, key)}, p)
		}
		for _, tree := range trees {
			if n := tree.child(key); n != nil && n.kind == scalar && filepath.IsAbs(n.text) {
				return n.text, nil
			}
		}
	}
	if _, err := os.Lstat(file); errors.Is(err, fs.ErrNotExist) && len(sources) == 0 {
		return DefaultControlSocket, nil // there is no configuration here
	}
	if p.unread {
		return DefaultControlSocket, p.list[0]
	}
	return DefaultControlSocket, nil
}

// topLines is what s says of a top-level key, as far as single lines tell: for a file that is not YAML as a whole.
func topLines(s source, key string) source {
	out := source{name: s.name}
	for line := range bytes.Lines(s.text) {
		if bytes.HasPrefix(line, []byte(key+":")) {
			out.text = append(out.text, line...)
		}
	}
	return out
}

// openWithConfD opens file and what lies in conf.d/ beside it.
func openWithConfD(file string) ([]source, *problems) {
	files := []string{file}
	dir := filepath.Join(filepath.Dir(file), "conf.d")
	entries, err := os.ReadDir(dir) // in lexical order
	for _, entry := range entries {
		if name := entry.Name(); filepath.Ext(name) == ".yaml" && name[0] != '.' {
			files = append(files, filepath.Join(dir, name))
		}
	}
	sources, p := open(files)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.unreadable(dir, err)
	}
	return sources, p
}

// source is one file that could be read.
type source struct {
	name string
	text []byte
}

// open reads the files; those that cannot be read are problems.
func open(files []string) ([]source, *problems) {
	p := newProblems()
	var sources []source
	for i, name := range files {
		p.files = append(p.files, name)
		if slices.Contains(files[:i], name) {
			p.report("", place{name, 1, 1}, "this file is named twice", "name it once")
			continue
		}
		text, err := readFile(name)
		special := notRegular("")
		switch {
		case errors.As(err, &special):
			p.report("", place{name, 1, 1}, special.Error()+", not a file", "put a regular file in its place, or remove it")
			p.unread = true
		case err != nil:
			p.unreadable(name, err)
		case len(text) > maxFile:
			p.report("", place{name, 1, 1}, "longer than "+Size(maxFile).String(), "write several files into conf.d")
			p.unread = true
		default:
			sources = append(sources, source{name, text})
		}
	}
	return sources, p
}

// unreadable reports a file that could not be read, or listed.
func (p *problems) unreadable(name string, err error) {
	if cause := (*fs.PathError)(nil); errors.As(err, &cause) {
		err = cause.Err
	}
	p.report("", place{name, 1, 1}, "cannot be read: "+err.Error(), "name a file that can be read")
	p.unread = true
}

// notRegular is what stands where a regular file belongs.
type notRegular string

func (n notRegular) Error() string { return string(n) }

// readFile reads one byte more than may be there, at most. What is not a regular file is a notRegular: nobody may be
// writing into a pipe, ever, and whoever reads here would wait for that.
func readFile(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // opening a named pipe waits otherwise
	if errors.Is(err, syscall.ENXIO) {
		return nil, notRegular("a socket or a device") // open(2): those that cannot be opened
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat() // of what was opened: the name may mean something else by now
	if err != nil {
		return nil, err
	}
	switch mode := info.Mode(); {
	case mode.IsRegular(), mode.IsDir(): // a directory cannot be read, and says so
	case mode&fs.ModeNamedPipe != 0:
		return nil, notRegular("a pipe")
	default:
		return nil, notRegular("a device")
	}
	return io.ReadAll(io.LimitReader(f, maxFile+1))
}

// extent is how much of a configuration is at hand.
type extent bool

const (
	whole    extent = true
	fragment extent = false
)

// build makes a Config of what could be read. When a file could not be read or parsed, the rest is checked as a
// fragment: what seems to be missing may stand there.
func build(sources []source, p *problems, extent extent) (*Config, error) {
	tree := merge(parse(sources, p), p)
	if p.unread {
		extent = fragment
	}
	c := &Config{}
	d := &decoder{problems: p, places: make(map[string]place), top: extent}
	d.config(tree, c)
	v := &checker{Config: c, decoder: d, again: make(map[string]bool)}
	v.values()
	v.relations()
	if err := p.errors(); err != nil {
		return nil, err
	}
	if extent == whole {
		v.form()
	}
	return c, nil
}
