package agent

import (
	"os"
	"reflect"
	"testing"
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
