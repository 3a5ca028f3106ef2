package main

import (
	"encoding/json"
	"strings"
	"testing"

	"certswarm/internal/control"
)

// Chronicle makes every scripted daemon one that remembers the same two events.
func (d *scripted) Chronicle() *control.Chronicle {
	c := control.NewChronicle()
	c.Note(control.Event{Kind: control.Applied, Node: "fe2", What: "certs", Text: "directory certs holds 31 files, before 30"},
		control.Event{Kind: control.ProblemBegan, Node: "fe1", What: "held-file", Text: "certs/\x1b[2J: held"})
	return c
}

func TestEvents(t *testing.T) {
	socket := serveControl(t, &scripted{statuses: []control.Status{healthyFleet()}})
	code, stdout, stderr := ask(socket, "events")
	lines := strings.Split(stdout, "\n")
	if code != 0 || stderr != "" || len(lines) != 3 ||
		!strings.HasSuffix(lines[0], "  applied         fe2  directory certs holds 31 files, before 30") ||
		!strings.HasSuffix(lines[1], `  problem-began   fe1  held-file: certs/\x1b[2J: held`) {
		t.Errorf("exit %d, %q\n%s", code, stderr, stdout)
	}
	code, stdout, stderr = ask(socket, "events", "--json")
	decoder := json.NewDecoder(strings.NewReader(stdout))
	for want := uint64(1); want <= 2; want++ {
		var e control.Event
		if err := decoder.Decode(&e); err != nil || e.Seq != want || e.Time.IsZero() {
			t.Errorf("%+v, %v", e, err)
		}
	}
	if code != 0 || strings.Count(stdout, "\n") != 2 {
		t.Errorf("exit %d, %q\n%s", code, stderr, stdout)
	}
}
