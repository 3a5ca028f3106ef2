package agent_test

import (
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/agent"
	"certswarm/internal/control"
	"certswarm/internal/durable"
	"certswarm/testnet"
)

// An issuer that cannot write what an issuance keeps holds it up for a moment, not for ever; when too few can, the status says so, and it goes on when it has
// waited as long as it would have for a lease.
func TestAnIssuerThatCannotWriteHoldsUpNobody(t *testing.T) {
	for full, goesOn := range map[int]bool{1: true, 2: false} {
		synctest.Test(t, func(t *testing.T) {
			var requests atomic.Int32
			var cannot [3]atomic.Bool
			for i := range full {
				cannot[2-i].Store(true)
			}
			options := withCertificates(testnet.Options{Nodes: 3})
			without := options.Edges
			options.Edges = func(i int, edges *agent.Edges) {
				without(i, edges)
				edges.CA = refusing{&requests} // one that cannot be reached would move the lease
				disk := edges.Disk
				edges.Disk = func(e durable.Effect, do func() error) error {
					if filepath.Base(e.Dir) == "issuers" && cannot[i].Load() {
						return syscall.ENOSPC
					}
					return disk(e, do)
				}
			}
			f := testnet.New(t, options)
			holder := voting(t, f, 3, 3, 5*time.Minute)
			if cannot[holder].Load() { // it is not the holder that this is about
				for i := range cannot {
					cannot[(holder+1+i)%3].Store(i < full)
				}
			}
			requests.Store(0)
			time.Sleep(9 * time.Minute)
			f.Advance(time.Second)
			if asked := requests.Load(); asked > 0 != goesOn {
				t.Errorf("%d issuers cannot write: the CA was asked %d times", full, asked)
			}
			s := f.Status(holder)
			if tells(s, control.WriteFailed, "issuers/") == goesOn {
				t.Errorf("%d issuers cannot write: %+v", full, s.Problems)
			}
			if e := s.Certificates[0].LastError; strings.Contains(e, "is saved") == goesOn {
				t.Errorf("%d issuers cannot write: the last error is %q", full, e)
			}
			time.Sleep(2 * time.Minute)
			f.Advance(time.Second)
			if requests.Load() == 0 {
				t.Errorf("%d issuers cannot write: the CA is not asked", full)
			}
		})
	}
}
