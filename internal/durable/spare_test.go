package durable

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// prepared opens a root on a file system that has spares, with one for its top directory.
func prepared(t *testing.T, size int64) *Root {
	t.Helper()
	r := openRoot(t, t.TempDir())
	must(t, r.Prepare("", size))
	if len(r.spares.list) == 0 {
		here, err := r.open("", never)
		must(t, err)
		defer here.close()
		if here.orderly() {
			t.Fatal("nothing was prepared")
		}
		t.Log("this file system has no spares: what follows shows that nothing depends on them")
	}
	return r
}

func TestAPreparedFileBecomesWhatAnyOtherDoes(t *testing.T) {
	for name, text := range map[string]string{
		"shorter": "x", "empty": "", "as long": strings.Repeat("y", 8192), "longer": strings.Repeat("z", 20_001),
	} {
		t.Run(name, func(t *testing.T) {
			r := prepared(t, 6000)
			v := Version{Kind: File, Perm: 0o640, Owner: AsItIs}
			warn, err := r.Stage("f", "t", v, strings.NewReader(text))
			must(t, errors.Join(warn, err))
			if len(r.spares.list) != 0 {
				t.Error("the spare was not used")
			}
			must(t, r.Place("f", "t"))
			got, err := os.ReadFile(filepath.Join(r.Dir(), "f"))
			must(t, err)
			if string(got) != text {
				t.Errorf("%d bytes, want %d", len(got), len(text))
			}
			st, err := r.Lstat("f")
			must(t, err)
			if st.Perm != 0o640 || st.Kind != File {
				t.Errorf("%+v", st)
			}
		})
	}
}

func TestAPreparedFileIsOnlyForItsDirectory(t *testing.T) {
	r := prepared(t, 10)
	ready := len(r.spares.list)
	_, err := r.Stage("elsewhere/f", "t", Version{Kind: File, Perm: 0o600, Owner: AsItIs}, strings.NewReader("x"))
	must(t, err)
	if len(r.spares.list) != ready {
		t.Error("it was used in another directory")
	}
	must(t, os.Rename(filepath.Join(r.Dir(), "elsewhere"), filepath.Join(r.Dir(), "moved")))
	must(t, r.Place("moved/f", "t"))
}

func TestAPreparedFileThatIsNotVerifiedIsNeverSeen(t *testing.T) {
	r := prepared(t, 10)
	bad := errors.New("another digest")
	_, err := r.Stage("f", "t", Version{Kind: File, Perm: 0o600, Owner: AsItIs}, io.MultiReader(strings.NewReader("half"), iotestErr{bad}))
	if !errors.Is(err, bad) {
		t.Fatal(err)
	}
	if names, err := r.ReadDir(""); err != nil || len(names) != 0 {
		t.Errorf("%q, %v", names, err)
	}
}

func TestPreparedFilesAreFewAndEndWithTheRoot(t *testing.T) {
	r := prepared(t, 10)
	for _, dir := range []string{"a", "b", "c", "d", "e", "a"} {
		_, err := r.MkDir(dir, 0o755, AsItIs)
		must(t, err)
		must(t, r.Prepare(dir, 10))
	}
	if len(r.spares.list) > maxSpares {
		t.Errorf("%d are kept open", len(r.spares.list))
	}
	must(t, r.Prepare("", 1<<20)) // too large to be worth it
	must(t, r.Close())
	if len(r.spares.list) != 0 {
		t.Error("left open")
	}
}

func TestSyncAllTakesWhatWasDoneLoosely(t *testing.T) {
	r := openRoot(t, t.TempDir())
	loose := r.Loose()
	_, err := loose.MkDir("a/b", 0o750, AsItIs)
	must(t, err)
	_, err = loose.Stage("a/b/f", "t", Version{Kind: File, Perm: 0o600, Owner: AsItIs}, strings.NewReader("x"))
	must(t, err)
	must(t, r.SyncAll("a/b", "gone", ""))
	must(t, loose.Place("a/b/f", "t"))
	must(t, r.SyncAll("a/b"))
	if st, err := r.Lstat("a/b"); err != nil || st.Perm != 0o750 {
		t.Errorf("%+v, %v", st, err)
	}
	must(t, r.Close())
	if err := loose.SyncAll(); err == nil {
		t.Error("a closed root was synced")
	}
}
