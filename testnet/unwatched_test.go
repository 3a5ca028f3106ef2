package testnet_test

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"certswarm/internal/agent"
	"certswarm/internal/control"
	"certswarm/syncer"
	"certswarm/testnet"
)

// limited is a Watcher of a kernel that has only so many watches to give.
type limited struct {
	syncer.Watcher
	left *atomic.Int64
	has  *sync.Map // the directories that are watched
}

// Add implements syncer.Watcher.
func (l limited) Add(dir string) error {
	if _, again := l.has.Load(dir); !again && l.left.Add(-1) < 0 {
		return syncer.ErrWatchLimit
	}
	l.has.Store(dir, true)
	return l.Watcher.Add(dir)
}

// A directory for which there is no watch is read every half minute, which is said; both end when there are watches again.
func TestDirectoriesThatAreNotWatched(t *testing.T) {
	var left atomic.Int64
	options := three
	options.Edges = func(node int, edges *agent.Edges) {
		if watch := edges.Watch; node == 2 {
			edges.Watch = func() (syncer.Watcher, error) {
				w, err := watch()
				return limited{w, &left, &sync.Map{}}, err
			}
		}
	}
	left.Store(2)
	story(t, options, func(t *testing.T, f *testnet.Fleet) {
		f.Write(0, "watched/a", "1")
		f.Settle()
		left.Store(0)
		f.Write(0, "deaf/a", "1")
		f.Write(0, "deaf/below/a", "1")
		f.Settle()
		p := problem(f, 2, control.WatchLimited)
		if p == nil || !strings.Contains(p.Text, "2 directories are not watched") {
			t.Fatalf("status says %v", p)
		}
		f.Write(2, "deaf/below/a", "edited")
		f.Advance(5 * time.Second)
		expect(t, f, 0, "deaf/below/a", "1")
		f.Advance(30 * time.Second)
		expect(t, f, 0, "deaf/below/a", "edited")
		if again := problem(f, 2, control.WatchLimited); again == nil || !again.Since.Equal(p.Since.Time) {
			t.Errorf("status says %v, before %v", again, p)
		}

		f.Remove(2, "deaf/below") // nobody hears of it, but it needs no watch any more
		f.Advance(35 * time.Second)
		if p := problem(f, 2, control.WatchLimited); p == nil || !strings.Contains(p.Text, "1 directories") {
			t.Errorf("status says %v", p)
		}
		left.Store(100)
		f.Advance(31 * time.Second)
		if p := problem(f, 2, control.WatchLimited); p != nil {
			t.Errorf("status still says %s", p.Text)
		}
		f.Write(2, "deaf/a", "heard at once")
		f.Advance(100 * time.Millisecond)
		expect(t, f, 0, "deaf/a", "heard at once")
	})
}

// Nor does a node without any watcher give up.
func TestANodeThatGetsNoWatcher(t *testing.T) {
	var none atomic.Bool
	options := three
	options.Edges = func(node int, edges *agent.Edges) {
		if watch := edges.Watch; node == 2 {
			edges.Watch = func() (syncer.Watcher, error) {
				if none.Load() {
					return nil, errors.New("too many open files")
				}
				return watch()
			}
		}
	}
	none.Store(true)
	story(t, options, func(t *testing.T, f *testnet.Fleet) {
		if p := problem(f, 2, control.WatchLimited); p == nil || !strings.Contains(p.Text, "too many open files") {
			t.Fatalf("status says %v", p)
		}
		f.Write(2, "a", "noticed late")
		f.Advance(31 * time.Second)
		expect(t, f, 0, "a", "noticed late")
		none.Store(false)
		f.Advance(31 * time.Second)
		expectNoProblem(t, f, 2)
		f.Write(2, "a", "heard at once")
		f.Advance(100 * time.Millisecond)
		expect(t, f, 0, "a", "heard at once")
	})
}

// That the kernel did not tell of everything is said, until everything was read again.
func TestAnOverflowIsSaid(t *testing.T) {
	story(t, three, func(t *testing.T, f *testnet.Fleet) {
		f.Settle()
		f.Overflow(2)
		f.Advance(100 * time.Millisecond)
		p := problem(f, 2, control.WatchLimited)
		if p == nil || !strings.Contains(p.Text, "queue of events overflowed") {
			t.Fatalf("status says %v", p)
		}
		f.Advance(10 * time.Second)
		f.Overflow(2)
		f.Advance(10 * time.Second)
		if again := problem(f, 2, control.WatchLimited); again == nil || !again.Since.Equal(p.Since.Time) {
			t.Errorf("status says %v, before %v", again, p)
		}
		f.Advance(10 * time.Second)
		if p := problem(f, 2, control.WatchLimited); p != nil {
			t.Errorf("status still says %s", p.Text)
		}
	})
}
