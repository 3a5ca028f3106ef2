package control_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/control"
)

func TestHappened(t *testing.T) {
	problem := func(code control.Code, node, text string) control.Problem {
		return control.Problem{Code: code, Node: node, Text: text}
	}
	for name, test := range map[string]struct {
		before, after func(*control.Status)
		want          string
	}{
		"nothing": {nil, nil, ""},
		"a problem begins": {nil, func(s *control.Status) {
			s.Problems = []control.Problem{problem(control.HeldFile, "fe1", "certs/a: held")}
		}, "problem-began fe1 held-file: certs/a: held"},
		"a problem ends": {func(s *control.Status) {
			s.Problems = []control.Problem{problem(control.HeldFile, "fe1", "certs/a: held")}
		}, nil, "problem-ended fe1 held-file: certs/a: held"},
		"a problem says more of itself": {func(s *control.Status) {
			s.Problems = []control.Problem{problem(control.DiskFull, "fe1", "certs: 3 files wait")}
		}, func(s *control.Status) {
			s.Problems = []control.Problem{problem(control.DiskFull, "fe1", "certs: 4 files wait")}
		}, ""},
		"another file, the same problem": {func(s *control.Status) {
			s.Problems = []control.Problem{problem(control.HeldFile, "fe1", "certs/a: held")}
		}, func(s *control.Status) {
			s.Problems = []control.Problem{problem(control.HeldFile, "fe1", "certs/b: held")}
		}, "problem-began fe1 held-file: certs/b: held; problem-ended fe1 held-file: certs/a: held"},
		"a peer goes":        {nil, func(s *control.Status) { s.Peers[0].Connected = false }, "peer-gone fe2 fe1: fe1 is no longer connected"},
		"a peer comes":       {func(s *control.Status) { s.Peers[0].Connected = false }, nil, "peer-connected fe2 fe1: fe1 is connected from or at"},
		"a holder goes":      {nil, func(s *control.Status) { s.Lease.Holder = "" }, "lease-moved fe2 : the lease is held by nobody, before by fe1"},
		"files change":       {nil, func(s *control.Status) { s.Directories[0].Fingerprint = "other" }, "applied fe2 certs: directory certs holds"},
		"a directory is new": {func(s *control.Status) { s.Directories = nil }, nil, ""},
		"another certificate, served at once": {func(s *control.Status) { s.Certificates[0].Serial = "1" }, nil,
			"issued fe2 www.example.com: www.example.com has serial; served fe2 www.example.com: www.example.com is served everywhere"},
		"served late":      {func(s *control.Status) { s.Certificates[0].Served[0].State = control.Stale }, nil, "served fe2 www.example.com: www.example.com is served"},
		"no longer served": {nil, func(s *control.Status) { s.Certificates[0].Served[0].State = control.Stale }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			before, after := healthy(), healthy()
			if test.before != nil {
				test.before(&before)
			}
			if test.after != nil {
				test.after(&after)
			}
			events := control.Happened(before, after)
			wants := strings.Split(test.want, "; ")
			if test.want == "" {
				wants = nil
			}
			if len(events) != len(wants) {
				t.Fatalf("%+v, not %q", events, test.want)
			}
			for i, e := range events {
				if got := fmt.Sprintf("%s %s %s: %s", e.Kind, e.Node, e.What, e.Text); !strings.HasPrefix(got, wants[i]) {
					t.Errorf("%s, not %s", got, wants[i])
				}
			}
		})
	}
}

func TestAChronicleForgetsTheOldest(t *testing.T) {
	c := control.NewChronicle()
	_, more := c.After(0)
	for range 1200 {
		c.Note(control.Event{Kind: control.Applied})
	}
	select {
	case <-more:
	default:
		t.Error("whoever waited was not told")
	}
	events, _ := c.After(0)
	if n := len(events); n != 500 || events[0].Seq != 701 || events[n-1].Seq != 1200 {
		t.Errorf("%d events from %d on", len(events), events[0].Seq)
	}
	if events, _ := c.After(1199); len(events) != 1 || events[0].Seq != 1200 {
		t.Errorf("after 1199: %+v", events)
	}
	if events, _ := c.After(1200); len(events) != 0 {
		t.Errorf("after the last: %+v", events)
	}
}

// storied is a daemon that remembers.
type storied struct {
	*daemon
	past *control.Chronicle
}

func (s storied) Chronicle() *control.Chronicle { return s.past }

func TestEventsAreTold(t *testing.T) {
	d := storied{&daemon{status: healthy()}, control.NewChronicle()}
	d.past.Note(control.Event{Kind: control.Applied, Text: "first"}, control.Event{Kind: control.Applied, Text: "second"})
	client, _, stop := serve(t, d)
	var seen []string
	take := func(e control.Event) bool {
		seen = append(seen, e.Text)
		return true
	}
	if err := client.Events(t.Context(), false, take); err != nil || strings.Join(seen, " ") != "first second" {
		t.Errorf("%q, %v", seen, err)
	}
	seen = nil
	err := client.Events(t.Context(), true, func(e control.Event) bool {
		take(e)
		switch len(seen) {
		case 2:
			d.past.Note(control.Event{Text: "third"})
		case 3:
			return false
		}
		return true
	})
	if err != nil || strings.Join(seen, " ") != "first second third" {
		t.Errorf("followed: %q, %v", seen, err)
	}
	err = client.Events(t.Context(), true, func(e control.Event) bool {
		if e.Text == "third" {
			go func() { _ = stop() }() // its error is what the watch ended with
		}
		return true
	})
	if !errors.Is(err, control.ErrNoDaemon) {
		t.Errorf("when the daemon ended: %v", err)
	}
}

func TestADaemonWithoutAChronicleSaysSo(t *testing.T) {
	client, _, _ := up(t, &daemon{status: healthy()})
	if err := client.Events(t.Context(), false, nil); err == nil || !strings.Contains(err.Error(), "remembers no events") {
		t.Error(err)
	}
}

// A frozen daemon does not hold up whoever follows it, and a quiet one does not look frozen.
func TestWhoFollowsAQuietDaemonStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithTimeout(t.Context(), time.Hour)
		defer stop()
		ctx, cancel := context.WithCancelCause(ctx)
		enough := errors.New("enough")
		beats := 0
		err := control.TellEvents(ctx, control.NewChronicle(), func(line string) {
			if line != "\n" {
				t.Errorf("%q was told", line)
			}
			if beats++; beats == 5 {
				cancel(enough)
			}
		})
		if !errors.Is(err, enough) {
			t.Error(err)
		}
	})
}
