package durable

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestLinesAreAppended(t *testing.T) {
	r := openRoot(t, t.TempDir())
	holds := func(name, want string) {
		t.Helper()
		got, err := r.ReadFile(name, 1000)
		if err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v, not %q", name, got, err, want)
		}
	}
	for _, line := range []string{"one\n", "two\n"} {
		must(t, r.Append("log", []byte(line), 12))
	}
	holds("log", "one\ntwo\n")
	if st, err := r.Lstat("log"); err != nil || st.Perm != 0o600 {
		t.Errorf("%+v, %v", st, err)
	}
	must(t, r.Append("log", []byte("12\n"), 12))
	holds("log", "one\ntwo\n12\n") // 11 bytes
	must(t, r.Append("log", []byte("of a new file\n"), 12))
	holds("log", "of a new file\n")
	holds("log.1", "one\ntwo\n12\n")
	must(t, r.Append("log", []byte("x\n"), 12))
	holds("log", "x\n")
	holds("log.1", "of a new file\n")
}

func TestALineAfterATornOneIsWhole(t *testing.T) {
	r := openRoot(t, t.TempDir())
	must(t, os.WriteFile(filepath.Join(r.Dir(), "log"), []byte("whole\nto"), 0o600))
	must(t, r.Append("log", []byte("next\n"), 100))
	if got, err := r.ReadFile("log", 1000); err != nil || string(got) != "whole\nto\nnext\n" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestOnlyAFileIsAppendedTo(t *testing.T) {
	r := openRoot(t, t.TempDir())
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	must(t, os.Symlink(elsewhere, filepath.Join(r.Dir(), "link")))
	must(t, syscall.Mkfifo(filepath.Join(r.Dir(), "pipe"), 0o600))
	must(t, os.Mkdir(filepath.Join(r.Dir(), "dir"), 0o700))
	for _, name := range []string{"link", "pipe", "dir"} {
		if err := r.Append(name, []byte("x\n"), 100); !errors.Is(err, ErrKind) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Lstat(elsewhere); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the link was followed: %v", err)
	}
}
