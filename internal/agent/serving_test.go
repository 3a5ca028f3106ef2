package agent

import (
	"testing"

	"certswarm/nginx"
)

// A certificate that every listener shows by now is no problem any more; one that a single listener does not show still is.
func TestNotServedEndsWhenEveryListenerShowsTheCertificate(t *testing.T) {
	problem := func(name string) (string, finding) {
		return "not-served " + name, finding{Problem: nginx.Problem{Code: nginx.NotServed, Name: name}}
	}
	var f findings
	f.init()
	for _, name := range []string{"mended", "half", "unseen"} {
		key, p := problem(name)
		f.problems[key] = p
	}
	f.dropMendedLocked([]nginx.Served{
		{Name: "mended", Listener: "a", State: nginx.Current}, {Name: "mended", Listener: "b", State: nginx.Current},
		{Name: "half", Listener: "a", State: nginx.Stale}, {Name: "half", Listener: "b", State: nginx.Current},
	})
	for name, want := range map[string]bool{"mended": false, "half": true, "unseen": true} {
		key, _ := problem(name)
		if _, still := f.problems[key]; still != want {
			t.Errorf("%s: still a problem: %v", name, still)
		}
	}
}
