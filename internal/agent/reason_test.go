package agent

import (
	"testing"
	"time"

	"certswarm/syncer"
)

// What is only odd does not keep a node behind, and does not hide what does.
func TestWhyADirectoryIsBehind(t *testing.T) {
	fault := func(code syncer.FaultCode, minute int, text string) syncer.Fault {
		return syncer.Fault{Code: code, Since: time.Unix(int64(minute*60), 0), Text: text}
	}
	odd := []syncer.Fault{fault(syncer.OwnershipFailed, 9, "give away a"), fault(syncer.NameRefused, 9, "b"), fault(syncer.HeldFile, 9, "c"), fault(syncer.EditReverted, 9, "d")}
	for name, c := range map[string]struct {
		state  syncer.State
		faults []syncer.Fault
		want   string
	}{
		"in sync":                      {syncer.InSync, append(odd, fault(syncer.WriteFailed, 1, "old")), ""},
		"only odd":                     {syncer.Behind, odd, ""},
		"a write failed":               {syncer.Behind, append(odd, fault(syncer.WriteFailed, 1, "read-only")), "write-failed: read-only"},
		"the latest of two":            {syncer.Behind, append(odd, fault(syncer.DiskFull, 1, "full"), fault(syncer.WriteFailed, 2, "read-only")), "write-failed: read-only"},
		"to write before to read":      {syncer.Joining, append(odd, fault(syncer.DirectoryUnreadable, 5, "unread"), fault(syncer.DiskFull, 1, "full")), "disk-full: full"},
		"unreadable, state damaged":    {syncer.Behind, append(odd, fault(syncer.StateDamaged, 5, "db"), fault(syncer.DirectoryUnreadable, 1, "unread")), "directory-unreadable: unread"},
		"the state database, and odds": {syncer.Behind, append(odd, fault(syncer.StateDamaged, 5, "db")), "state-damaged: db"},
	} {
		if got := reasonOf(syncer.DirectoryStatus{State: c.state, Faults: c.faults}); got != c.want {
			t.Errorf("%s: %q", name, got)
		}
	}
}
