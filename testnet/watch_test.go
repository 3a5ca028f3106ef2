package testnet

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"certswarm/syncer"
)

// Both watchers, that of a real agent and that of this package, keep the contract of syncer.Watcher.
func TestWatchersKeepTheContract(t *testing.T) {
	t.Run("inotify", func(t *testing.T) {
		testWatcher(t, func(t *testing.T) (syncer.Watcher, func()) {
			w, err := syncer.NewInotify()
			check(t, err)
			return w, func() {}
		})
	})
	t.Run("testnet", func(t *testing.T) {
		testWatcher(t, func(t *testing.T) (syncer.Watcher, func()) {
			var e ears
			w, err := e.watch()
			check(t, err)
			return w, func() { check(t, e.listen()) }
		})
	})
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// watched is a watcher on a directory of its own.
type watched struct {
	syncer.Watcher
	t      *testing.T
	root   string
	listen func()
	dirs   []string // added
	heard  []string
}

func testWatcher(t *testing.T, open func(*testing.T) (syncer.Watcher, func())) {
	for name, tell := range map[string]func(t *testing.T, w *watched){
		"what is not there cannot be watched": func(t *testing.T, w *watched) {
			if err := w.Add(filepath.Join(w.root, "missing")); err == nil {
				t.Error("no error")
			}
		},
		"every change has a hint": func(t *testing.T, w *watched) {
			w.add(".")
			w.write("file")
			w.hears("file")
			check(t, os.Chmod(w.at("file"), 0o600))
			w.hears("file")
			check(t, os.Rename(w.at("file"), w.at("renamed")))
			w.hears("file")
			w.hears("renamed")
			check(t, os.Symlink("renamed", w.at("link")))
			w.hears("link")
			check(t, os.Mkdir(w.at("dir"), 0o700))
			w.hears("dir")
			check(t, os.Remove(w.at("dir")))
			w.hears("dir")
			check(t, os.Remove(w.at("renamed")))
			w.hears("renamed")
		},
		"what is deeper is not heard": func(t *testing.T, w *watched) {
			check(t, os.Mkdir(w.at("dir"), 0o700))
			w.add(".")
			w.write("dir/file")
			w.write("last")
			w.hears("last")
			if got := strings.Join(w.heard, " "); strings.Contains(got, "dir/file") {
				t.Errorf("heard %s", got)
			}
		},
		"a directory made anew is watched when it is added again": func(t *testing.T, w *watched) {
			for range 3 { // the inode may be the same or another
				check(t, os.MkdirAll(w.at("dir"), 0o700))
				w.add("dir")
				w.write("dir/file")
				w.hears("dir/file")
				check(t, os.RemoveAll(w.at("dir")))
			}
		},
		"a directory that took another's place": func(t *testing.T, w *watched) {
			check(t, os.Mkdir(w.at("dir"), 0o700))
			w.add("dir")
			check(t, os.Rename(w.at("dir"), w.at("away")))
			check(t, os.Mkdir(w.at("dir"), 0o700))
			w.add("dir")
			w.write("dir/file")
			w.hears("dir/file")
		},
		"what was renamed is heard by its new name once it is added": func(t *testing.T, w *watched) {
			check(t, os.MkdirAll(w.at("old/sub"), 0o700))
			w.add("old")
			w.add("old/sub")
			check(t, os.Rename(w.at("old"), w.at("new")))
			w.add("new")
			w.add("new/sub")
			w.write("new/sub/file")
			w.hears("new/sub/file")
			w.write("new/file")
			w.hears("new/file")
			w.write("new/sub/second")
			w.hears("new/sub/second")
		},
		"adding twice changes nothing": func(t *testing.T, w *watched) {
			w.add(".")
			w.write("before")
			w.add(".")
			w.hears("before")
			w.write("after")
			w.hears("after")
		},
		"nobody need listen": func(_ *testing.T, w *watched) {
			w.add(".")
			for range 10 {
				w.write("file")
			}
			w.listen()
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, listen := open(t)
			tell(t, &watched{Watcher: w, t: t, root: t.TempDir(), listen: listen})
			check(t, w.Close())
		})
	}
}

func (w *watched) at(name string) string { return filepath.Join(w.root, name) }

func (w *watched) add(dir string) {
	w.t.Helper()
	check(w.t, w.Add(w.at(dir)))
	w.dirs = append(w.dirs, dir)
}

// startOver does what an overflow asks for.
func (w *watched) startOver() {
	w.t.Helper()
	for _, dir := range w.dirs {
		if _, err := os.Stat(w.at(dir)); err == nil {
			check(w.t, w.Add(w.at(dir)))
		}
	}
}

func (w *watched) write(name string) {
	w.t.Helper()
	check(w.t, os.WriteFile(w.at(name), []byte("content"), 0o600))
}

// hears waits for a hint of name, or finds it when it looks after an overflow.
func (w *watched) hears(name string) {
	w.t.Helper()
	w.listen()
	fuse := time.After(20 * time.Second)
	for {
		select {
		case h := <-w.Hints():
			w.heard = append(w.heard, h.Path)
			if h.Overflow {
				w.startOver()
				if _, err := os.Lstat(w.at(name)); err == nil {
					return
				}
			}
			if h.Path == w.at(name) {
				return
			}
		case <-fuse:
			w.t.Fatalf("no hint of %s; heard %s", w.at(name), w.heard)
		}
	}
}
