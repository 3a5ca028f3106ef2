package agent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/agent/config"

	"golang.org/x/sys/unix"
)

func TestOnlyWhatIsInTheFileIsUnmapped(t *testing.T) {
	const smaps = `00400000-00b7e000 r-xp 00000000 fe:00 1234 /usr/bin/certswarm
Rss:                7000 kB
Anonymous:             0 kB
00b7e000-01366000 r--p 0077e000 fe:00 1234 /usr/bin/certswarm
Anonymous:            64 kB
01366000-013cf000 rw-p 00f66000 fe:00 1234 /usr/bin/certswarm
Anonymous:             0 kB
c000000000-c000400000 rw-p 00000000 00:00 0
Anonymous:          4000 kB
7f0000000000-7f0000010000 r--s 00000000 fe:00 99 /var/lib/certswarm/sync/certs.db
Anonymous:             0 kB
7f0000010000-7f0000020000 r-xp 00000000 fe:00 77 /usr/lib/libother.so
Anonymous:             0 kB
`
	want := []mapping{{0x400000, 0xb7e000}, {0x7f0000000000, 0x7f0000010000}}
	ours := func(file string) bool {
		return file == "/usr/bin/certswarm" || file == "/var/lib/certswarm/sync/certs.db"
	}
	if got := cleanMappings([]byte(smaps), ours); !reflect.DeepEqual(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
}

// The program goes on without its pages: this very function comes back from the page cache.
func TestAProgramOutlivesBeingUnmapped(t *testing.T) {
	for range 3 {
		if err := unmapFiles(t.TempDir()); err != nil {
			t.Fatal(err)
		}
		if _, err := os.ReadFile("/proc/self/smaps"); err != nil {
			t.Fatal(err)
		}
	}
}

// A daemon gives back what it does not need; an agent among others leaves the process, which they share, alone.
func TestAnIdleDaemonGivesMemoryBack(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for name, c := range map[string]struct {
		edges Edges
		gives bool
	}{"a daemon": {RealEdges(log), true}, "one of many": {Edges{}, false}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &house{cfg: &config.Config{StateDir: t.TempDir()}, edges: c.edges, log: log}
				file := filepath.Join(h.cfg.StateDir, "db")
				inMemory := mapped(t, file, 1<<20)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() {
					h.giveBack(ctx)
					close(done)
				}()
				before := inMemory()
				time.Sleep(trimInterval + time.Second)
				synctest.Wait()
				if after := inMemory(); before == 0 || (after == 0) != c.gives {
					t.Errorf("of a file %d KiB were in memory, and then %d", before, after)
				}
				cancel()
				<-done
			})
		})
	}
}

// mapped maps a new file until the test ends, and returns what tells how many KiB of it are in the memory of this process.
func mapped(t *testing.T, file string, size int) (resident func() int) {
	t.Helper()
	if err := os.WriteFile(file, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	pages, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Munmap(pages); err != nil {
			t.Error(err)
		}
	})
	return func() int {
		t.Helper()
		smaps, err := os.ReadFile("/proc/self/smaps")
		if err != nil {
			t.Fatal(err)
		}
		_, of, _ := strings.Cut(string(smaps), file+"\n")
		_, rss, _ := strings.Cut(of, "Rss:")
		kib := -1
		if _, err := fmt.Sscan(rss, &kib); err != nil {
			t.Fatalf("%s is not mapped: %v", file, err)
		}
		return kib
	}
}
