package syncer

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/syncer/index"

	"golang.org/x/sys/unix"
)

// withoutReading runs do as somebody whom the mode of a file keeps from reading it, whoever runs the tests.
func withoutReading(t *testing.T, do func()) {
	t.Helper()
	withoutRights(t, 1<<unix.CAP_DAC_OVERRIDE|1<<unix.CAP_DAC_READ_SEARCH, do)
}

// withoutRights runs do without some capabilities. They are the thread's, and given back.
func withoutRights(t *testing.T, rights uint32, do func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var had [2]unix.CapUserData
	if err := unix.Capget(&header, &had[0]); err != nil {
		t.Fatal(err)
	}
	less := had
	less[0].Effective &^= rights
	if err := unix.Capset(&header, &less[0]); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Capset(&header, &had[0]); err != nil {
			t.Fatal(err)
		}
	}()
	do()
}

// What could not be read is looked at again by itself, and said once for as long as it lasts.
func TestWhatCannotBeReadIsLookedAtAgain(t *testing.T) {
	for _, where := range []string{"dir/file", "dir", ""} {
		t.Run(where, func(t *testing.T) {
			d := openAlone(t)
			d.mu.Lock()
			d.faultLocked(NameRefused, index.MustPath("dir"), os.ErrInvalid) // was mended
			d.mu.Unlock()
			var lines strings.Builder
			d.log = slog.New(slog.NewTextHandler(&lines, nil))
			file := filepath.Join(d.Path, "dir", "file")
			if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte("text"), 0o600); err != nil {
				t.Fatal(err)
			}
			closed := filepath.Join(d.Path, where)
			later := postponed{index.MustPath("dir/file"): {}, index.MustPath("dir"): {}} // to be looked at for another reason
			var since time.Time
			withoutReading(t, func() {
				if err := os.Chmod(closed, 0); err != nil {
					t.Fatal(err)
				}
				d.lookAt(nil, true, later)
				for range 5 {
					f := fault(d, DirectoryUnreadable)
					if f == nil || f.Path != where || !since.IsZero() && !f.Since.Equal(since) {
						t.Fatalf("since %s it is %+v", since, f)
					}
					since = f.Since
					path, _ := index.ParsePath(where) // the root is the zero Path
					made := later[path]
					if !made.unread {
						t.Fatalf("to be looked at again: %v", later)
					}
					if d.lookAt(nil, true, later); later[path] != made {
						t.Errorf("somebody looked meanwhile, and %+v became %+v", made, later[path])
					}
					later[path] = appointment{at: time.Now(), delay: made.delay, unread: true}
					if d.lookAt([]index.Path{path}, false, later); later[path].delay != 2*made.delay {
						t.Errorf("after %s the next look is %s later", made.delay, later[path].delay)
					}
				}
				if where == "dir" && fault(d, NameRefused) != nil {
					t.Error("what was mended of it is still said")
				}
				if got := strings.Count(lines.String(), "\n"); got != 1 {
					t.Errorf("%d lines of one problem:\n%s", got, lines.String())
				}
				if err := os.Chmod(closed, 0o700); err != nil {
					t.Fatal(err)
				}
				d.lookAt(later.due(time.Now().Add(unreadLast)), false, later)
			})
			if f := fault(d, DirectoryUnreadable); f != nil || d.Lookup(index.MustPath("dir/file")) == nil || d.r.x.Len() != 2 {
				t.Errorf("it can be read, and %d things are there: %+v", d.r.x.Len(), f)
			}
			if wait, some := later.next(time.Now()); some && wait > retrySeldom {
				t.Errorf("the next look is after %s", wait)
			}
		})
	}
}

// Nobody tells a running node that what it could not read can be read, at its start or since.
func TestARunningNodeReadsAgainByItself(t *testing.T) {
	for name, running := range map[string]bool{"at the start": false, "since": true} {
		t.Run(name, func(t *testing.T) {
			base := newPlaces(t)
			synctest.Test(t, func(t *testing.T) {
				s, abandon := openSyncerIn(t, base, nil)
				d := s.Directories()[0]
				if err := d.watch.Close(); err != nil {
					t.Fatal(err)
				}
				d.watch = quietly{}
				p := index.MustPath("file")
				passing := func() {
					if err := os.WriteFile(filepath.Join(d.Path, "file"), []byte("text"), 0o600); err != nil {
						t.Fatal(err)
					}
					d.mu.Lock()
					defer d.mu.Unlock()
					d.faultLocked(DirectoryUnreadable, p, unix.EMFILE)
				}
				if !running {
					passing()
				}
				ctx, end := context.WithCancel(t.Context())
				ran := make(chan error, 1)
				go func() { ran <- s.Run(ctx) }()
				wait := unreadFirst
				if running {
					time.Sleep(rootInterval / 2)
					passing()
					wait += rootInterval
				}
				time.Sleep(wait + retryLast)
				synctest.Wait()
				if f := fault(d, DirectoryUnreadable); f != nil || d.Lookup(p) == nil {
					t.Errorf("after %s: %+v", wait, f)
				}
				end()
				if err := <-ran; err != nil {
					t.Error(err)
				}
				d.closers = nil // by Run
				abandon()
			})
		})
	}
}
