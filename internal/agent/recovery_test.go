package agent_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/testnet"
)

// What `lease recover` would do is said before anybody is asked, and so is which voters are not there.
func TestWhatARecoveryWouldDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := testnet.New(t, testnet.Options{Nodes: 3, Latency: time.Millisecond})
		f.Settle()
		holder := voting(t, f, 3, 3, 5*time.Minute)
		asked := func() (page, refused string, rebuilds bool) {
			t.Helper()
			r, err := f.Agent(0).Recovery(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range r.Standings {
				page += fmt.Sprintf("%s %v, ", s.Node, s.Reached)
			}
			if r.Rebuilds == (r.Confirm == "") || r.Rebuilds == (r.Refused != "") {
				t.Errorf("%+v", r)
			}
			return page, r.Refused, r.Rebuilds
		}
		if _, refused, _ := asked(); !strings.Contains(refused, fmt.Sprintf("this node sees fe%d lead", holder+1)) {
			t.Errorf("while all is well it is refused because %q", refused)
		}
		f.Crash(1)
		f.Crash(2)
		f.Advance(2 * time.Minute)
		if err := f.Agent(0).ResignLease(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "nobody is known to hold the lease") {
			t.Errorf("what nobody holds is given away: %v", err)
		}
		if page, refused, rebuilds := asked(); !rebuilds || page != "fe1 true, fe2 false, fe3 false, " {
			t.Errorf("without the others: %s; %v, %s", page, rebuilds, refused)
		}
	})
}
