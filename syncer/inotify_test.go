package syncer

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fsnotify/fsnotify"
)

// A watcher that cannot be had anew after a rename says so: what it tells from then on may have wrong names.
func TestARenewalThatFailsIsTold(t *testing.T) {
	for name, fails := range map[string]bool{"it fails": true, "it succeeds": false} {
		t.Run(name, func(t *testing.T) {
			w, err := NewInotify()
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			n := w.(*inotify)
			if fails {
				n.mu.Lock()
				n.make = func() (*fsnotify.Watcher, error) { return nil, errors.New("no instances are left") }
				n.mu.Unlock()
			}
			base := t.TempDir()
			dir := filepath.Join(base, "dir")
			if err := errors.Join(os.Mkdir(dir, 0o700), w.Add(base), w.Add(dir), os.Rename(dir, filepath.Join(base, "renamed"))); err != nil {
				t.Fatal(err)
			}
			for h := range w.Hints() {
				if !h.Overflow {
					continue
				}
				if told := strings.Contains(h.Why, "no instances are left"); told != fails {
					t.Errorf("told: %q", h.Why)
				}
				return
			}
		})
	}
}
