package durable

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

func TestStagingChangesNothingVisibleAndPlacingAll(t *testing.T) {
	r := openRoot(t, t.TempDir())
	must(t, r.WriteFile("a/key.pem", []byte("old"), 0o600))
	stageText(t, r, "a/key.pem", "t1", "new", Version{Kind: File, Perm: 0o640, Owner: AsItIs})
	if data, _ := r.ReadFile("a/key.pem", 9); string(data) != "old" {
		t.Errorf("staged, and visible already: %q", data)
	}
	staged, err := r.Staged("a/key.pem", "t1")
	must(t, err)
	must(t, r.Place("a/key.pem", "t1"))
	must(t, r.SyncDir("a"))
	placed, err := r.Lstat("a/key.pem")
	must(t, err)
	placed.Ctime = staged.Ctime // renaming counts as a change of the inode on some file systems
	if placed != staged || placed.Perm != 0o640 || placed.Size != 3 {
		t.Errorf("staged %+v, placed %+v", staged, placed)
	}
	if names, _ := r.ReadDir("a"); len(names) != 1 {
		t.Errorf("left over: %v", names)
	}
	wants(t, "placing twice", r.Place("a/key.pem", "t1"), fs.ErrNotExist)
}

func TestAReaderSeesOneVersionOrTheNext(t *testing.T) {
	r := openRoot(t, t.TempDir())
	version := func(i int) []byte { return bytes.Repeat([]byte(strconv.Itoa(i%10)), 6000) }
	must(t, r.WriteFile("key.pem", version(0), 0o600))
	done := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		for {
			data, err := os.ReadFile(filepath.Join(r.Dir(), "key.pem"))
			if err != nil || len(data) != 6000 || bytes.Count(data, data[:1]) != 6000 {
				t.Errorf("read %d bytes, %v", len(data), err)
				return
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	for i := range 500 {
		_, err := r.Stage("key.pem", "t", Version{Kind: File, Perm: 0o600, Owner: AsItIs, Volatile: true}, bytes.NewReader(version(i)))
		must(t, err)
		must(t, r.Place("key.pem", "t"))
	}
	close(done)
	reading.Wait()
}

// peeping is a content that looks at its own temporary while it is being written.
type peeping struct {
	r    io.Reader
	peep func()
}

func (p peeping) Read(b []byte) (int, error) { p.peep(); return p.r.Read(b) }

func TestTheModeIsNeverWiderThanItWillBe(t *testing.T) {
	r := openRoot(t, t.TempDir())
	for _, perm := range []uint32{0o600, 0o640, 0o644, 0o400, 0o7777} {
		peeps := 0
		content := peeping{strings.NewReader("key"), func() {
			peeps++
			if st, err := r.Staged("key.pem", "t"); err != nil || st.Perm != 0o600 {
				t.Errorf("while it is written it is %o, %v", st.Perm, err)
			}
		}}
		_, err := r.Stage("key.pem", "t", Version{Kind: File, Perm: perm, Owner: AsItIs}, content)
		must(t, err)
		if st, err := r.Staged("key.pem", "t"); err != nil || st.Perm != perm&0o777 || st.Special || peeps == 0 {
			t.Errorf("%o is staged as %+v, %v, after %d looks", perm, st, err, peeps)
		}
	}
}

func TestTheUmaskDoesNotMatter(t *testing.T) {
	r := openRoot(t, t.TempDir())
	defer unix.Umask(unix.Umask(0o077))
	must(t, r.WriteFile("acme/challenge/token", nil, 0o644))
	_, err := r.MkDir("made/of/these", 0o775, AsItIs)
	must(t, err)
	for name, perm := range map[string]uint32{
		"acme": 0o755, "acme/challenge": 0o755, "acme/challenge/token": 0o644, "made/of": 0o755, "made/of/these": 0o775,
	} {
		if st, err := r.Lstat(name); err != nil || st.Perm != perm {
			t.Errorf("%s has mode %o, %v", name, st.Perm, err)
		}
	}
}

func TestContentThatFailsLeavesNothing(t *testing.T) {
	r := openRoot(t, t.TempDir())
	must(t, r.WriteFile("f", []byte("old"), 0o600))
	before := tree(t, r.Dir())
	mismatch := errors.New("digest mismatch")
	content := io.MultiReader(strings.NewReader("half"), iotestErr{mismatch})
	_, err := r.Stage("f", "t", public644(), content)
	wants(t, "Stage", err, mismatch)
	_, err = r.Stage("f", "t", Version{Kind: Directory}, nil)
	wants(t, "a directory", err, ErrKind)
	if after := tree(t, r.Dir()); !maps.Equal(before, after) {
		t.Errorf("%v became %v", before, after)
	}
}

type iotestErr struct{ err error }

func (e iotestErr) Read([]byte) (int, error) { return 0, e.err }

func TestStagingAgainReplacesWhatACrashLeft(t *testing.T) {
	r := openRoot(t, t.TempDir())
	for what, leave := range map[string]func(temp string) error{
		"a file":      func(temp string) error { return os.WriteFile(temp, []byte("a longer leftover"), 0o644) },
		"a link":      func(temp string) error { return os.Symlink("/etc/passwd", temp) },
		"a directory": func(temp string) error { return os.Mkdir(temp, 0o755) },
	} {
		must(t, leave(filepath.Join(r.Dir(), ".certswarm-t")))
		stageText(t, r, "f", "t", "new", Version{Kind: File, Perm: 0o600, Owner: AsItIs})
		if st, err := r.Staged("f", "t"); err != nil || st.Kind != File || st.Size != 3 || st.Perm != 0o600 {
			t.Errorf("after %s: %+v, %v", what, st, err)
		}
		must(t, r.Unstage("f", "t"))
		must(t, r.Unstage("f", "t"))
		if names, _ := r.ReadDir(""); len(names) != 0 {
			t.Errorf("after %s: left %v", what, names)
		}
	}
}

func TestMtimeIsNowButALaterSecondThanBefore(t *testing.T) {
	now := time.Unix(1000, 500)
	at := func(sec, nsec int64) int64 { return time.Unix(sec, nsec).UnixNano() }
	for what, c := range map[string]struct{ after, want int64 }{
		"nothing before":         {0, at(1000, 500)},
		"long ago":               {at(10, 0), at(1000, 500)},
		"the second before":      {at(999, 999_999_999), at(1000, 500)},
		"the same second":        {at(1000, 1), at(1001, 0)},
		"the same second, later": {at(1000, 999_999_999), at(1001, 0)},
		"the future":             {at(5000, 7), at(5001, 0)},
		"before 1970":            {at(-1, 500), at(1000, 500)},
	} {
		if got := (Version{After: c.after}).mtime(now); got != c.want {
			t.Errorf("%s: %v, not %v", what, time.Unix(0, got), time.Unix(0, c.want))
		}
	}
	if math.MaxInt64/int64(time.Second) < time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC).Unix() {
		t.Error("nanoseconds do not reach far enough")
	}
}

func TestManyVersionsInOneSecondHaveRisingSeconds(t *testing.T) {
	r := openRoot(t, t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		var last Stat
		for _, kind := range []Kind{File, File, Symlink, File, Symlink, Symlink} {
			v := Version{Kind: kind, Perm: 0o600, Owner: AsItIs, Target: "x", After: last.Mtime}
			_, err := r.Stage("f", "t", v, strings.NewReader("x"))
			must(t, err)
			must(t, r.Place("f", "t"))
			st, err := r.Lstat("f")
			must(t, err)
			if last != (Stat{}) && st.Mtime/1e9 <= last.Mtime/1e9 {
				t.Errorf("a %s of second %d came after one of %d", kind, st.Mtime/1e9, last.Mtime/1e9)
			}
			if st.Mtime != v.mtime(time.Now()) {
				t.Errorf("its mtime is %d, not %d", st.Mtime, v.mtime(time.Now()))
			}
			last = st
		}
	})
}

func TestPlacingOverEveryKind(t *testing.T) {
	file := func(path string) error { return os.WriteFile(path, []byte("old"), 0o600) }
	link := func(path string) error { return os.Symlink("/etc/passwd", path) }
	directory := func(path string) error { return os.Mkdir(path, 0o755) }
	nothing := func(string) error { return nil }
	for over, make := range map[string]func(string) error{"file": file, "link": link, "directory": directory, "nothing": nothing} {
		for _, kind := range []Kind{File, Symlink} {
			r := openRoot(t, t.TempDir())
			must(t, make(filepath.Join(r.Dir(), "f")))
			stageText(t, r, "f", "t", "new", Version{Kind: kind, Perm: 0o600, Owner: AsItIs, Target: "new"})
			must(t, r.Place("f", "t"))
			names, err := r.ReadDir("")
			if st, _ := r.Lstat("f"); err != nil || st.Kind != kind || len(names) != 1 {
				t.Errorf("%s over %s: %v, %v, %v", kind, over, st.Kind, names, err)
			}
		}
	}
}

func TestPlacingOverAFullDirectoryChangesNothing(t *testing.T) {
	r := openRoot(t, t.TempDir())
	must(t, r.WriteFile("d/inside", []byte("theirs"), 0o600))
	stageText(t, r, "d", "t", "new", public644())
	before := tree(t, r.Dir())
	wants(t, "Place", r.Place("d", "t"), ErrNotEmpty)
	if after := tree(t, r.Dir()); !maps.Equal(before, after) {
		t.Errorf("%v became %v", before, after)
	}
	must(t, r.Unstage("d", "t"))
	before = tree(t, r.Dir())
	wants(t, "ReplaceSymlink", r.ReplaceSymlink("d", "x"), ErrNotEmpty)
	wants(t, "WriteFile", r.WriteFile("d", nil, 0o600), ErrNotEmpty)
	wants(t, "Remove", r.Remove("d"), ErrNotEmpty)
	if after := tree(t, r.Dir()); !maps.Equal(before, after) {
		t.Errorf("%v became %v", before, after)
	}
}

func TestPlaceFinishesWhatACrashInterrupted(t *testing.T) {
	r := openRoot(t, t.TempDir())
	put(t, filepath.Join(r.Dir(), "f"), "new", 0o600) // exchanged already
	must(t, os.Mkdir(filepath.Join(r.Dir(), ".certswarm-t"), 0o755))
	must(t, r.Place("f", "t"))
	if names, _ := r.ReadDir(""); len(names) != 1 || names[0] != "f" {
		t.Errorf("%v", names)
	}
	if data, _ := r.ReadFile("f", 9); string(data) != "new" {
		t.Errorf("%q", data)
	}
}

func TestCleanTempsRemovesOnlyWhatIsOursAndNotKept(t *testing.T) {
	r := openRoot(t, t.TempDir())
	for _, base := range []string{".certswarm-a", ".certswarm-b", ".certswarm", "certswarm-c", ".certswarm-full/theirs", "d/.certswarm-deep", "f"} {
		put(t, filepath.Join(r.Dir(), base), "", 0o600)
	}
	must(t, os.Mkdir(filepath.Join(r.Dir(), ".certswarm-empty"), 0o755))
	must(t, os.Symlink("f", filepath.Join(r.Dir(), ".certswarm-link")))
	err := r.CleanTemps("", func(token string) bool { return token == "b" })
	wants(t, "a full directory", err, ErrNotEmpty)
	got, err := r.ReadDir(".")
	if want := ".certswarm .certswarm-b .certswarm-full certswarm-c d f"; err != nil || strings.Join(got, " ") != want {
		t.Errorf("%v, not %s, %v", got, want, err)
	}
	must(t, r.CleanTemps("d", nil))
	if names, _ := r.ReadDir("d"); len(names) != 0 {
		t.Errorf("left %v", names)
	}
	must(t, r.CleanTemps("missing/d", nil))
	if IsTemp(".certswarm") || IsTemp("x.certswarm-x") || !IsTemp(".certswarm-x") {
		t.Error("IsTemp is wrong")
	}
}

func TestOwnership(t *testing.T) {
	r := openRoot(t, t.TempDir())
	stranger := Owner{UID: 54321, GID: 54322}
	if os.Geteuid() == 0 {
		stageText(t, r, "given", "t", "x", Version{Kind: File, Perm: 0o640, Owner: stranger})
		must(t, r.Place("given", "t"))
		stageText(t, r, "given-link", "t", "", Version{Kind: Symlink, Target: "x", Owner: stranger})
		must(t, r.Place("given-link", "t"))
		warn, err := r.MkDir("given-directory", 0o750, stranger)
		must(t, errors.Join(warn, err))
		for _, name := range []string{"given", "given-link", "given-directory"} {
			if st, err := r.Lstat(name); err != nil || (Owner{st.UID, st.GID}) != stranger {
				t.Errorf("%s: %+v, %v", name, st, err)
			}
		}
	}
	withoutChown(t, func(int) {
		me := Owner{UID: os.Geteuid(), GID: os.Getegid()}
		warnings := map[string]func(Owner) (error, error){
			"file": func(o Owner) (error, error) {
				return r.Stage("file", "t", Version{Kind: File, Perm: 0o640, Owner: o}, strings.NewReader("x"))
			},
			"link": func(o Owner) (error, error) {
				return r.Stage("link", "t2", Version{Kind: Symlink, Target: "x", Owner: o}, nil)
			},
			"directory": func(o Owner) (error, error) { return r.MkDir("directory", 0o750, o) },
			"mode":      func(o Owner) (error, error) { return r.SetMode("directory", 0o700, o) },
		}
		for _, what := range []string{"file", "link", "directory", "mode"} {
			warn, err := warnings[what](stranger)
			if err != nil || !errors.Is(warn, unix.EPERM) {
				t.Errorf("%s given to a stranger: warn %v, err %v", what, warn, err)
			}
			for _, o := range []Owner{me, AsItIs, {me.UID, -1}, {-1, me.GID}} {
				if warn, err := warnings[what](o); warn != nil || err != nil {
					t.Errorf("%s given to %v: warn %v, err %v", what, o, warn, err)
				}
			}
		}
		must(t, r.Place("file", "t"))
		if st, err := r.Lstat("file"); err != nil || st.Perm != 0o640 || st.Size != 1 {
			t.Errorf("without its owner it is %+v, %v", st, err)
		}
	})
}

func TestSomebodyWhoMayNotGiveFilesAwayStillChoosesTheGroup(t *testing.T) {
	r := openRoot(t, t.TempDir())
	withoutChown(t, func(gid int) {
		warn, err := r.Stage("f", "t", Version{Kind: File, Perm: 0o640, Owner: Owner{UID: 54321, GID: gid}}, strings.NewReader("x"))
		if err != nil || !errors.Is(warn, unix.EPERM) {
			t.Errorf("warn %v, err %v", warn, err)
		}
		if st, err := r.Staged("f", "t"); err != nil || st.GID != gid || st.UID != os.Geteuid() {
			t.Errorf("%+v, %v", st, err)
		}
	})
}

// BenchmarkReplace is what one renewed file costs a receiver.
func BenchmarkReplace(b *testing.B) {
	for name, volatile := range map[string]bool{"durable": false, "volatile": true} {
		b.Run(name, func(b *testing.B) {
			r := openRoot(b, b.TempDir())
			archive := OpenArchive(openRoot(b, b.TempDir()), 5)
			data := bytes.Repeat([]byte("x"), 6<<10)
			v := Version{Kind: File, Perm: 0o600, Owner: AsItIs, Volatile: volatile}
			must(b, r.WriteFile("live/www/privkey.pem", data, 0o600))
			for b.Loop() {
				_, err := r.Stage("live/www/privkey.pem", "t", v, bytes.NewReader(data))
				must(b, err)
				if !volatile {
					must(b, archive.Keep(r, "live/www/privkey.pem"))
				}
				must(b, r.Place("live/www/privkey.pem", "t"))
				if !volatile {
					must(b, r.SyncDir("live/www"))
				}
			}
		})
	}
}
