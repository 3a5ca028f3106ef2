package agent_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/control"
	"certswarm/testnet"
)

// tells reports whether a node's status has a problem of the code whose text begins with the words.
func tells(s control.Status, code control.Code, words string) bool {
	return slices.ContainsFunc(s.Problems, func(p control.Problem) bool { return p.Code == code && strings.HasPrefix(p.Text, words) })
}

// A peer that falls silent is not known to be lost for many seconds. Meanwhile the others hear of every change as if it were not there.
func TestASilentPeerKeepsNoNewsFromTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := testnet.New(t, testnet.Options{Nodes: 3})
		f.Settle()
		f.CutAll(2)
		for _, file := range []string{"first", "second"} {
			f.Symlink(0, "/elsewhere", file)
			f.Advance(500 * time.Millisecond)
			if !tells(f.Status(1), control.NameRefused, "certs/"+file) {
				t.Errorf("fe2 has not heard of %s", file)
			}
		}
		if !f.Status(0).Peers[1].Connected {
			t.Error("fe3 is known to be lost: this test shows nothing")
		}
	})
}
