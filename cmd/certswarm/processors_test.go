package main

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestAllProcessorsAreUsedWhileThereIsMuchToDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var used []bool
		p := newProcessors(func(all bool) { used = append(used, all) })
		expect := func(when string, want ...bool) {
			t.Helper()
			synctest.Wait()
			p.mu.Lock()
			defer p.mu.Unlock()
			if !slices.Equal(used, want) {
				t.Fatalf("%s: %v, want %v (true: all)", when, used, want)
			}
		}
		time.Sleep(lullAfter - 1)
		p.busy()
		time.Sleep(lullAfter - 1)
		expect("it starts with all, and there was much to do")
		time.Sleep(time.Nanosecond)
		expect("nothing much for a while", false)
		time.Sleep(time.Hour)
		expect("still nothing", false)
		for range 10 {
			p.busy()
			expect("much, again and again", false, true)
			time.Sleep(lullAfter / 2)
		}
		time.Sleep(lullAfter)
		expect("and not any more", false, true, false)
	})
}
