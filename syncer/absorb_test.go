package syncer

import (
	"fmt"
	"testing"
	"time"
)

// Jobs without any content are absorbed like all others.
func TestDeletionsThatWaitInARowBecomeOne(t *testing.T) {
	w := newWorld("fe1", "fe2").start()
	w.machines[0].meet(w.machines[1], false)
	w.settle()
	fe1, fe2 := w.machines[0], w.machines[1]
	for i := range appliers + 1 {
		fe1.do("writes", []string{fmt.Sprintf("file%d", i), "text"})
		w.speak(fe1, fe2, false, false)
		fe2.r.jobs[i].inline = nil
	}
	if j := fe2.r.work(time.Now()); len(fe2.r.jobs) != 1 || len(j.entries) != appliers+1 {
		t.Errorf("%d jobs, the first with %d entries", len(fe2.r.jobs), len(j.entries))
	}
}

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

// What belongs together shares a fate, not what travelled together.
func TestAJobThatFailsIsTakenApartByItsBatches(t *testing.T) {
	w := newWorld("fe1", "fe2").start()
	fe1, fe2 := w.machines[0], w.machines[1]
	for i := range 3 {
		fe1.do("writes", []string{fmt.Sprintf("a%d", i), "text", fmt.Sprintf("b%d", i), "text"})
	}
	fe1.meet(fe2, false)
	for w.speak(fe1, fe2, false, false) {
	}
	j := fe2.r.work(time.Now())
	if j == nil || len(j.entries) != 6 {
		t.Fatalf("not one job of six files: %v", fe2.r.jobs)
	}
	fe2.r.finish(time.Now(), j, nil, true)
	if len(fe2.r.jobs) != 3 {
		t.Fatalf("it became %d jobs", len(fe2.r.jobs))
	}
	through := fe2.r.expected(fe1.r.self)
	later := time.Now().Add(time.Minute)
	for range 3 {
		part := fe2.r.work(later)
		if len(part.entries) != 2 || part.entries[0].Batch != part.entries[1].Batch {
			t.Errorf("a part has %d entries", len(part.entries))
		}
		if part.entries[0].Path.String() == "a1" { // this one goes on failing
			fe2.r.finish(later, part, nil, true)
			continue
		}
		for _, e := range part.entries {
			fe2.r.land(e)
		}
		fe2.r.finish(later, part, part.entries, false)
	}
	if held := fe2.r.x.Held()[fe1.r.self]; held != 2 || len(fe2.r.jobs) != 1 || len(fe2.r.covers) != 1 {
		t.Errorf("%d held, %d jobs and %d covers are left", held, len(fe2.r.jobs), len(fe2.r.covers))
	}
	last := fe2.r.work(later.Add(time.Minute))
	for _, e := range last.entries {
		fe2.r.land(e)
	}
	fe2.r.finish(later, last, last.entries, false)
	if held := fe2.r.x.Held()[fe1.r.self]; held != through || through != fe1.r.seq {
		t.Errorf("%d of %d are held", held, fe1.r.seq)
	}
}

// What was refused keeps two nodes from being compared until something else stands there.
func TestARefusalEndsWithWhatWasRefused(t *testing.T) {
	w := newWorld("fe1", "fe2").start()
	fe1, fe2 := w.machines[0], w.machines[1]
	fe1.meet(fe2, false)
	fe2.r.maxFile = 3
	fe1.do("writes", []string{"a", "too long"})
	w.settle()
	if fe2.r.settled() {
		t.Error("it is as if nothing had been refused")
	}
	fe1.do("writes", []string{"a", "ok"})
	w.do([]string{"time", "1s"})
	w.settle()
	if !fe2.r.settled() || fe2.r.x.Fingerprint() != fe1.r.x.Fingerprint() {
		t.Error("the refusal outlives what was refused")
	}
}
