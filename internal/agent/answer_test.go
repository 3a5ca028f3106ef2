package agent

import (
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/control"
)

// Whoever asks while a disk hangs hears what was known before, in time; and the truth as soon as the disk answers.
func TestAnAnswerDoesNotWaitForADisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a answer
		files, hung := 1, make(chan bool)
		gather := func() control.Status {
			<-hung
			return control.Status{Directories: control.List[control.Directory]{{Files: files}}}
		}
		const stale = "as it was"
		ask := func() (files int, cluster string) {
			s := a.get(gather, func(last control.Status, since time.Time) control.Status {
				last.Cluster = stale
				return last
			})
			for _, d := range s.Directories {
				files = d.Files
			}
			return files, s.Cluster
		}
		close(hung)
		if n, cluster := ask(); n != 1 || cluster == stale {
			t.Fatal(n, cluster)
		}
		files, hung = 2, make(chan bool)
		for range 2 {
			begun := time.Now()
			if n, cluster := ask(); n != 1 || cluster != stale || time.Since(begun) != answerPatience {
				t.Errorf("while it hangs: %d files, %q, after %v", n, cluster, time.Since(begun))
			}
		}
		close(hung)
		if n, cluster := ask(); n != 2 || cluster == stale {
			t.Errorf("after it: %d files, %q", n, cluster)
		}
	})
}
