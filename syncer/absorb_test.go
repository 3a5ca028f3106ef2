package syncer

import (
	"fmt"
	"testing"
	"time"
)

// What waits in a row is landed in one; a few jobs are left to be done side by side.
func TestJobsThatWaitInARowBecomeOne(t *testing.T) {
	for waiting, want := range map[int]int{1: 1, appliers: appliers, appliers + 1: 1, 50: 1} {
		t.Run(fmt.Sprint(waiting), func(t *testing.T) {
			w := newWorld("fe1", "fe2").start()
			w.machines[0].meet(w.machines[1], false)
			w.settle()
			fe1, fe2 := w.machines[0], w.machines[1]
			for i := range waiting {
				fe1.do("writes", []string{fmt.Sprintf("file%d", i), "text"})
				w.speak(fe1, fe2, false, false)
			}
			if len(fe2.r.jobs) != waiting {
				t.Fatalf("%d jobs wait", len(fe2.r.jobs))
			}
			done := 0
			for j := fe2.r.work(time.Now()); j != nil; j = fe2.r.work(time.Now()) {
				done++
			}
			if done != want {
				t.Errorf("%d jobs became %d", waiting, done)
			}
			if through := fe2.r.expected(fe1.r.self); through != fe1.r.seq {
				t.Errorf("%d of %d are on their way", through, fe1.r.seq)
			}
		})
	}
}
