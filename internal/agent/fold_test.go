package agent_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/control"
	"certswarm/testnet"
)

// One mistake made thirty times does not hide the other problems: twenty are told, here and elsewhere, and how many more there are.
func TestProblemsThatAreAlikeAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := testnet.New(t, testnet.Options{Nodes: 2})
		f.Settle()
		var links []string
		for i := range 30 {
			links = append(links, fmt.Sprintf("link-%02d", i))
			f.Symlink(0, "/etc/passwd", links[i])
		}
		tell := func(want int, more string) {
			t.Helper()
			f.Advance(time.Second)
			for i := range 2 {
				refused, counted := 0, ""
				for _, p := range f.Status(i).Problems {
					if p.Code == control.NameRefused && p.Node == "fe1" {
						refused++
						if strings.Contains(p.Text, " more of these") {
							counted = p.Text
						}
					}
				}
				if refused != want || counted != more {
					t.Errorf("fe%d tells %d, counted %q; not %d, %q", i+1, refused, counted, want, more)
				}
			}
		}
		tell(21, "certs: and 10 more of these")
		f.Remove(0, links[:10]...)
		tell(20, "")
		f.Remove(0, links[10:]...)
		tell(0, "")
	})
}
