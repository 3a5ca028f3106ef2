package syncer

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"certswarm/internal/need"
	"certswarm/syncer/index"

	"golang.org/x/sys/unix"
)

// Somebody else's file that is held open is left alone however long its writer pauses, if the agent may ask; if root may not, one line says so.
func TestAFileOfAnotherOwnerIsHeldOpen(t *testing.T) {
	need.Root(t)
	d := openAlone(t)
	var lines strings.Builder
	d.log = slog.New(slog.NewTextHandler(&lines, nil))
	for _, name := range []string{"one", "two"} {
		file, err := os.Create(filepath.Join(d.Path, name))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if err := file.Chown(33, 33); err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteString("half"); err != nil {
			t.Fatal(err)
		}
		long := time.Now().Add(-time.Hour)
		if err := os.Chtimes(file.Name(), long, long); err != nil {
			t.Fatal(err)
		}
		if _, err := d.disk.look(index.MustPath(name)); err != errBusy {
			t.Errorf("%s is open for writing: %v", name, err)
		}
		if lines.Len() > 0 {
			t.Errorf("said: %s", lines.String())
		}
	}
	withoutRights(t, 1<<unix.CAP_LEASE, func() {
		for _, name := range []string{"one", "two", "one"} {
			if _, err := d.disk.look(index.MustPath(name)); err != nil {
				t.Errorf("%s: %v: the kernel was asked", name, err)
			}
		}
	})
	if said := lines.String(); strings.Count(said, "\n") != 1 || !strings.Contains(said, "CAP_LEASE") {
		t.Errorf("said: %q", said)
	}
}
