package load

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// fake is two nodes of which the second gets what is on the first when the first is told, or the second started; it is settled when
// somebody waited for that.
type fake struct {
	dirs    []string
	files   Tree // what Tell and Start bring
	away    bool
	looked  bool
	settled bool
	steps   []string
}

func newFake(t *testing.T, files Tree) *fake {
	return &fake{dirs: []string{t.TempDir(), t.TempDir()}, files: files}
}

func (f *fake) Dirs() []string { return f.dirs }
func (f *fake) PIDs() []int    { return []int{os.Getpid(), os.Getpid()} }

func (f *fake) Stop(node int) error {
	f.away = node == 1
	return nil
}

func (f *fake) Start(context.Context, int) (time.Time, error) {
	if !f.looked {
		return time.Time{}, errors.New("node 0 was not given the time to look")
	}
	f.away, f.settled = false, false
	met := time.Now()
	return met, f.files.Write(f.dirs[1])
}

func (f *fake) Traffic(context.Context) (int64, error) { return 42, nil }

func (f *fake) Look(context.Context) error {
	f.looked = true
	return nil
}

func (f *fake) Tell(_ context.Context, path string) error {
	f.steps = append(f.steps, path)
	f.settled = false
	for _, file := range f.files {
		if path != "" && path != file.Path {
			continue
		}
		content, err := os.ReadFile(filepath.Join(f.dirs[0], file.Path))
		if err != nil {
			return err
		}
		if err := (Tree{{file.Path, content, file.Perm}}).Write(f.dirs[1]); err != nil {
			return err
		}
	}
	return nil
}

func (f *fake) Settle(context.Context) error {
	f.settled = true
	return nil
}

func TestDurableIsWhatHasSettled(t *testing.T) {
	files := sample(t)
	for name, work := range map[string]func(*fake) error{
		"join": func(f *fake) error { _, err := Join(t.Context(), f, files); return err },
		"burst": func(f *fake) error {
			for _, dir := range f.dirs {
				if err := files.Write(dir); err != nil {
					return err
				}
			}
			_, err := Burst(t.Context(), f, files)
			return err
		},
		"rejoin": func(f *fake) error {
			if err := files.Write(f.dirs[1]); err != nil {
				return err
			}
			r, err := Rejoin(t.Context(), f, files)
			if err == nil && (r.Bytes != 42 || r.Visible <= 0 || r.Durable < r.Visible) {
				t.Errorf("%+v", r)
			}
			return err
		},
		"fill": func(f *fake) error {
			if err := files.Write(f.dirs[1]); err != nil {
				return err
			}
			return Fill(t.Context(), f, files)
		},
	} {
		f := newFake(t, files)
		if err := work(f); err != nil || !f.settled || f.away {
			t.Errorf("%s: %v, settled %v, away %v", name, err, f.settled, f.away)
		}
	}
}

func TestPropagationIsToldAndChecked(t *testing.T) {
	const first = "file-0"
	f := newFake(t, Tree{{Path: first, Perm: 0o644}})
	p, err := Propagate(f)
	must(t, err)
	defer p.Close()
	took, err := p.Next(t.Context())
	if err != nil || took <= 0 || len(f.steps) != 1 || f.steps[0] != first {
		t.Errorf("%v, %v, told of %v", took, err, f.steps)
	}
	f.files = Tree{{Path: "file-1", Perm: 0o600}} // not as it was written
	if _, err := p.Next(t.Context()); err == nil {
		t.Error("what did not arrive as it was written counts")
	}
}
