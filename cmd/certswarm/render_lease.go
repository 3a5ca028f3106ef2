package main

import (
	"fmt"
	"strings"
	"time"

	"certswarm/internal/control"
)

// renderLease is the page of `lease`.
func renderLease(s control.Status, now time.Time, look look) string {
	p := page{look: look}
	l := s.Lease
	if l.Engine == "" {
		p.line("There is no lease: nothing is issued here.")
		return p.lines.String()
	}
	holder := text(l.Holder)
	switch {
	case l.Holder == "":
		holder = cell{"nobody is known to hold it", red}
	case l.HeldHere:
		holder.text += " (this node)"
	}
	rows := [][]cell{
		{text("holder"), holder},
		{text("engine"), text(l.Engine)},
		{text("epoch"), orDash(l.Epoch.String())},
		{text("renewed"), text(ago(l.Renewed, now, "never"))},
	}
	if l.Engine == "raft" {
		rows = append(rows, []cell{text("leader"), orDash(l.Leader)}, []cell{text("voters"), votersLine(l)})
	}
	p.table("", rows...)
	var seats [][]cell
	for _, v := range l.Voters {
		seats = append(seats, []cell{text(v.Name), seatState(v)})
	}
	p.table("  ", seats...)
	return p.lines.String()
}

// votersLine is who votes against the wish. Where a node takes no part it is told by those who do, and none is not the same as
// nobody: they may be out of its sight.
func votersLine(l control.Lease) cell {
	if len(l.Voters) == 0 {
		return cell{fmt.Sprintf("none is known here; %d should vote by the peer list", l.Wished), yellow}
	}
	votes, connected := 0, 0
	for _, v := range l.Voters {
		if v.Learner {
			continue
		}
		votes++
		if v.Connected {
			connected++
		}
	}
	line := text(fmt.Sprintf("%d of %d", votes, l.Wished))
	if connected != votes {
		line.text += fmt.Sprintf(", %d connected", connected)
	}
	if votes != l.Wished || connected != votes {
		line.paint = yellow
	}
	return line
}

func seatState(v control.Voter) cell {
	state := cell{text: "votes"}
	if v.Learner {
		state = cell{"learns, and does not vote yet", yellow}
	}
	var wrong []string
	if !v.Connected {
		wrong = append(wrong, "not connected")
	}
	if !v.Listed {
		wrong = append(wrong, "not to vote by the peer list of this node")
	}
	if len(wrong) > 0 {
		state = cell{state.text + "; " + strings.Join(wrong, ", "), yellow}
	}
	return state
}

// renderRecovery is the page that a person reads before `lease recover`.
func renderRecovery(r control.Recovery, look look) string {
	p := page{look: look}
	rows := [][]cell{header("NODE", "GENERATION", "EPOCH", "LOG", "SEES LEAD")}
	for _, s := range r.Standings {
		row := []cell{text(s.Node), text("-"), text("-"), text("-"), orDash(s.Leader)}
		switch {
		case s.Refuses:
			row[1] = cell{"refuses this node", yellow}
		case !s.Reached:
			row[1] = cell{"not reached", yellow}
		case !s.Heard:
			row[1] = cell{"has not answered yet", yellow}
		case s.State:
			row[1], row[2] = text(fmt.Sprint(s.Generation)), orDash(s.Epoch.String())
			row[3] = text(fmt.Sprintf("term %d, index %d", s.Term, s.Index))
		default:
			row[1] = text("no state")
		}
		rows = append(rows, row)
	}
	p.table("", rows...)
	return p.lines.String()
}
