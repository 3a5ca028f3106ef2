package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestADetachedRootReachesNothing(t *testing.T) {
	base := t.TempDir()
	must(t, os.Mkdir(filepath.Join(base, "dir"), 0o700))
	r := openRoot(t, filepath.Join(base, "dir"))
	must(t, r.WriteFile("f", []byte("before"), 0o600))
	must(t, os.Rename(r.Dir(), r.Dir()+".away"))
	r.Detach()
	for what, err := range map[string]error{
		"WriteFile": r.WriteFile("f", []byte("while it was away"), 0o600),
		"Remove":    r.Remove("f"),
		"SyncAll":   r.Loose().SyncAll(),
		"Lstat":     func() error { _, err := r.Lstat("f"); return err }(),
	} {
		// What cannot be reached must not be taken for deleted.
		if !errors.Is(err, ErrDetached) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := r.Reopen(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is opened, though nothing is there: %v", err)
	}
	must(t, os.Mkdir(r.Dir(), 0o700))
	if r.Replaced() == nil {
		t.Error("one that was made meanwhile is taken for it")
	}
	must(t, r.Reopen())
	must(t, r.Replaced())
	must(t, r.Loose().WriteFile("f", []byte("in the other"), 0o600))
	if text, err := os.ReadFile(filepath.Join(base, "dir.away", "f")); err != nil || string(text) != "before" {
		t.Errorf("the one before has %q, %v", text, err)
	}
}

func TestSetAsideReplacesNothing(t *testing.T) {
	r := openRoot(t, t.TempDir())
	must(t, r.WriteFile("state.db", []byte("1"), 0o600))
	kept, err := r.SetAside("state.db", ".damaged-1")
	if err != nil || kept != "state.db.damaged-1" {
		t.Fatalf("%q, %v", kept, err)
	}
	must(t, r.WriteFile("state.db", []byte("2"), 0o600))
	if _, err := r.SetAside("state.db", ".damaged-1"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over one that was there: %v", err)
	}
	if text, err := r.ReadFile("state.db.damaged-1", 10); err != nil || string(text) != "1" {
		t.Errorf("%q, %v", text, err)
	}
}
