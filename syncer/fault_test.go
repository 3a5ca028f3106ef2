package syncer

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	_ "certswarm/internal/bubble"
	"certswarm/syncer/index"

	"golang.org/x/sys/unix"
)

func refused(d *Directory) (paths []string) {
	for _, f := range d.Status().Faults {
		if f.Code == NameRefused {
			paths = append(paths, f.Path)
		}
	}
	slices.Sort(paths)
	return paths
}

// What cannot be replicated is said and left alone, the rest goes on; and it is said for as long as it is there.
func TestWhatIsRefusedIsSaidWhileItIsThere(t *testing.T) {
	d := openAlone(t)
	at := func(name string) string { return filepath.Join(d.Path, name) }
	socket, err := net.Listen("unix", at("socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	for _, err := range []error{
		os.MkdirAll(at("dir/sub"), 0o755),
		unix.Mkfifo(at("fifo"), 0o600), unix.Mkfifo(at("dir/sub/fifo"), 0o600), unix.Mkfifo(at("dir/fifo"), 0o600),
		os.Symlink("../outside", at("escaping")), os.Symlink("/etc/passwd", at("dir/absolute")),
		os.WriteFile(at("setuid"), []byte("program"), 0o755), os.Chmod(at("setuid"), 0o755|os.ModeSetuid),
		os.Chmod(at("dir/sub"), 0o755|os.ModeSticky),
		os.WriteFile(at("dir/plain"), []byte("plain"), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	d.lookAt(nil, true, postponed{})
	want := []string{"dir/absolute", "dir/fifo", "dir/sub", "dir/sub/fifo", "escaping", "fifo", "setuid", "socket"}
	if got := refused(d); !slices.Equal(got, want) {
		t.Errorf("refused are %v, not %v", got, want)
	}
	for path, perm := range map[string]index.Perm{"dir/plain": 0o644, "setuid": 0o755} {
		e := d.Lookup(index.MustPath(path))
		if e == nil {
			t.Errorf("%s is not replicated", path)
		} else if f := e.Content.(index.File); f.Perm != perm {
			t.Errorf("%s travels with %o", path, f.Perm)
		}
	}
	for _, path := range []string{"fifo", "escaping", "socket", "dir/absolute"} {
		if d.Lookup(index.MustPath(path)) != nil {
			t.Errorf("%s is replicated", path)
		}
	}

	for _, change := range []struct {
		make func() error
		seen []string // what a hint names
		left []string
	}{
		{func() error { return os.Remove(at("fifo")) }, []string{"fifo"},
			[]string{"dir/absolute", "dir/fifo", "dir/sub", "dir/sub/fifo", "escaping", "setuid", "socket"}},
		{func() error { return os.Chmod(at("setuid"), 0o755) }, []string{"setuid"},
			[]string{"dir/absolute", "dir/fifo", "dir/sub", "dir/sub/fifo", "escaping", "socket"}},
		{func() error { return os.RemoveAll(at("dir/sub")) }, []string{"dir/sub"}, []string{"dir/absolute", "dir/fifo", "escaping", "socket"}},
		{func() error { return os.Remove(at("dir/fifo")) }, []string{"dir"}, []string{"dir/absolute", "escaping", "socket"}},
		{func() error { return os.Remove(at("escaping")) }, []string{"dir/plain"}, []string{"dir/absolute", "escaping", "socket"}}, // not looked at
		{func() error { return os.WriteFile(at("escaping"), nil, 0o600) }, []string{"escaping"}, []string{"dir/absolute", "socket"}},
		{func() error { return os.RemoveAll(at("dir")) }, []string{"dir"}, []string{"socket"}},
		{socket.Close, nil, nil},
	} {
		if err := change.make(); err != nil {
			t.Fatal(err)
		}
		var paths []index.Path
		for _, seen := range change.seen {
			paths = append(paths, index.MustPath(seen))
		}
		d.lookAt(paths, len(paths) == 0, postponed{})
		if got := refused(d); !slices.Equal(got, change.left) {
			t.Errorf("after a look at %v refused are %v, not %v", change.seen, got, change.left)
		}
	}
}

// What a survey could not look into may be there.
func TestWhatASurveyShowsToBeGone(t *testing.T) {
	path := index.MustPath
	s := newScan()
	s.Looked = []index.Path{path("gone"), path("file"), path("unread"), path("closed"), path("dir"), path("dir/here"), path("there")}
	s.Listed = []index.Path{path("dir")}
	s.Found = map[index.Path]index.Found{
		path("file"):     {Content: index.File{}},
		path("unread"):   {Held: true},
		path("closed"):   {Content: index.Directory{}}, // it could not be listed
		path("dir"):      {Content: index.Directory{}},
		path("dir/here"): {Content: index.File{}},
		path("there"):    {Content: index.Directory{}}, // looked at, and not into
	}
	for p, want := range map[string]bool{
		"gone": true, "gone/below": true, "file": false, "file/below/it": true, "unread": false, "unread/below": false, "closed/below": false,
		"dir": false, "dir/here": false, "dir/not": true, "dir/not/below": true, "dir/here/below": true, "there/below": false, "elsewhere": false,
	} {
		if gone := s.isGone(path(p), setOfPaths(s.Looked), setOfPaths(s.Listed)); gone != want {
			t.Errorf("%s is gone: %v", p, gone)
		}
	}
}

// A file that somebody gave to whom it was to be given is no problem any more.
func TestOwnershipThatWasMended(t *testing.T) {
	d := openAlone(t)
	publish(t, d, "a")
	p := index.MustPath("a")
	d.mu.Lock()
	d.noteOwnershipLocked(p, os.ErrPermission)
	e := *d.r.x.Live(p)
	f := e.Content.(index.File)
	f.Owner = "nobody-of-this-name"
	e.Content = f
	e.Stamp.HLC++
	d.r.x.Merge(&e)
	d.mu.Unlock()
	d.lookAt([]index.Path{p}, false, postponed{})
	if fault(d, OwnershipFailed) == nil {
		t.Fatal("forgotten although the file is still another's")
	}
	d.mu.Lock()
	again := e
	f.Owner = d.disk.owners.user(os.Geteuid())
	again.Content = f
	again.Stamp.HLC++
	d.r.x.Merge(&again)
	d.mu.Unlock()
	d.lookAt([]index.Path{p}, false, postponed{})
	if f := fault(d, OwnershipFailed); f != nil {
		t.Errorf("still said: %s", f.Text)
	}
}

// What inotify was told to watch it knows no longer than it is there.
func TestInotifyForgetsWhatIsGone(t *testing.T) {
	base := t.TempDir()
	watcher, err := NewInotify()
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Close()
	n := watcher.(*inotify)
	dir := filepath.Join(base, "dir")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, add := range []string{base, dir} {
		if err := watcher.Add(add); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	for hint := range watcher.Hints() {
		if hint.Path == dir {
			break
		}
	}
	if n.watched(dir) || !n.watched(base) {
		t.Errorf("%v are known", n.dirs)
	}
}

// A link to the replicated directory leads nowhere outside; it is refused all the same, and not for that.
func TestALinkToTheRootIsRefusedForWhatItIs(t *testing.T) {
	d := openAlone(t)
	for name, target := range map[string]string{"up": "..", "out": "../.."} {
		if err := os.MkdirAll(filepath.Join(d.Path, "dir"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, filepath.Join(d.Path, "dir", name)); err != nil {
			t.Fatal(err)
		}
	}
	d.lookAt(nil, true, postponed{})
	said := map[string]string{}
	for _, f := range d.Status().Faults {
		said[f.Path] = f.Text
	}
	if !strings.Contains(said["dir/up"], "the replicated directory itself") || !strings.Contains(said["dir/out"], "leaves the directory") {
		t.Errorf("%q", said)
	}
}

// A link that stays inside and leads deeper, or over longer names, than any path goes is refused for that.
func TestALinkThatLeadsTooDeepIsRefusedForThat(t *testing.T) {
	d := openAlone(t)
	targets := map[string]string{
		"deep": strings.Repeat("d/", index.MaxDepth) + "f", "name": strings.Repeat("n", index.MaxComponent+1), "long": strings.Repeat("./", index.MaxPath) + "f",
	}
	for name, target := range targets {
		if err := os.Symlink(target, filepath.Join(d.Path, name)); err != nil {
			t.Fatal(err)
		}
	}
	d.lookAt(nil, true, postponed{})
	said := map[string]string{}
	for _, f := range d.Status().Faults {
		said[f.Path] = f.Text
	}
	for name, why := range map[string]string{"deep": "65 directories deep; the limit is 64", "name": "a name of 256 bytes", "long": "2049 bytes; the limit is 1024"} {
		if !strings.Contains(said[name], why) || len(said[name]) > 2*maxTold {
			t.Errorf("of %s it is said: %s", name, said[name])
		}
	}
}

// A file that could not be read below a directory that could not be entered is as it was when the directory can be entered again, and is read.
func TestWhatCouldNotBeReadIsReadAgainThoughItLooksTheSame(t *testing.T) {
	d := openAlone(t)
	publish(t, d, "dir/key")
	d.lookAt(nil, true, postponed{})
	p := index.MustPath("dir/key")
	for _, hint := range []string{"dir", "dir/key"} {
		d.mu.Lock()
		d.faultLocked(DirectoryUnreadable, p, os.ErrPermission)
		d.mu.Unlock()
		if news := d.news([]index.Path{index.MustPath(hint)}); len(news) > 0 {
			d.lookAt(news, false, postponed{})
		}
		if f := fault(d, DirectoryUnreadable); f != nil {
			t.Errorf("after a hint of %s still said: %s", hint, f.Text)
		}
	}
}

// Ten thousand files with one mistake are not ten thousand lines.
func TestProblemsThatAreAlikeAreLoggedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines strings.Builder
		d := &Directory{log: slog.New(slog.NewTextHandler(&lines, nil)), faults: map[string]Fault{}, logged: map[FaultCode]logged{}}
		some := func(n int) int {
			lines.Reset()
			for i := range n {
				d.faultLocked(NameRefused, index.MustPath(fmt.Sprintf("%d-%d", len(d.faults), i)), os.ErrInvalid)
			}
			return strings.Count(lines.String(), "\n")
		}
		if got := some(mostLogged); got != mostLogged {
			t.Errorf("%d lines of %d", got, mostLogged)
		}
		if got := some(1000); got != 1 || !strings.Contains(lines.String(), "there are more") {
			t.Errorf("%d lines: %s", got, lines.String())
		}
		d.faultLocked(DiskFull, index.Path{}, os.ErrInvalid)
		if got := strings.Count(lines.String(), "\n"); got != 2 {
			t.Errorf("another kind is not told: %s", lines.String())
		}
		time.Sleep(logSpan + 1)
		if got := some(1); got != 1 {
			t.Errorf("%d lines a minute later", got)
		}
	})
}
