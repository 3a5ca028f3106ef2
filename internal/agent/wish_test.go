package agent_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/control"
	"certswarm/testnet"
)

// A barrier names every live node that lacks the file, waits for files only, and is over when all have it.
func TestABarrierNamesWhoLacksTheFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := testnet.New(t, testnet.Options{Nodes: 3, Latency: time.Millisecond})
		f.Write(0, "sub/file", "content")
		f.Settle()
		barrier := func(path string, timeout time.Duration) (string, error) {
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			var missing []string
			err := f.Agent(0).Barrier(ctx, control.Wish{Path: path}, func(lacking []string) error {
				missing = lacking
				return nil
			})
			return strings.Join(missing, "; "), err
		}
		for _, path := range []string{"sub", "sub/", "./sub/.", f.Path(0, "sub"), f.Path(0, "sub") + "/", "sub/file/"} {
			if _, err := barrier(path, time.Second); err == nil || !strings.Contains(err.Error(), path+" names a directory in certs") {
				t.Errorf("%s: %v", path, err)
			}
		}
		if missing, err := barrier("sub/file", time.Second); err != nil {
			t.Errorf("of what is everywhere %q is missing: %v", missing, err)
		}
		if missing, err := barrier("sub/none", time.Second); err == nil ||
			missing != "fe1 has no sub/none in directory certs; fe2 is not known to have it; fe3 is not known to have it" {
			t.Errorf("of what is nowhere %q is missing: %v", missing, err)
		}
		f.Mkdir(0, "links")
		f.Symlink(0, "../sub", "links/dir")
		f.Symlink(0, "links/dir", "to")
		f.Symlink(0, "round", "round")
		f.Settle()
		for path, lacks := range map[string]string{"to/file": "", "links/dir/file": "", "to": "", "to/none": "fe1 has no sub/none", "round/file": "fe1 has no round/file"} {
			if missing, err := barrier(path, time.Second); (err == nil) != (lacks == "") || !strings.HasPrefix(missing, lacks) {
				t.Errorf("behind links, of %s %q is missing: %v", path, missing, err)
			}
		}
		f.SlowDisk(1, 10*time.Second)
		f.SlowDisk(2, 10*time.Second)
		f.Write(0, "sub/file", "other content")
		if missing, err := barrier("sub/file", time.Second); err == nil || missing != "fe2 does not have it yet; fe3 does not have it yet" {
			t.Errorf("of what is on one node %q is missing: %v", missing, err)
		}
		f.Calm(1)
		f.Calm(2)
		if missing, err := barrier("sub/file", 10*time.Minute); err != nil {
			t.Errorf("%q is missing: %v", missing, err)
		}
	})
}
