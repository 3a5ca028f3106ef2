package agent

import (
	"fmt"

	"certswarm/internal/control"
	"certswarm/syncer"
)

// mostAlike is how many problems of one kind are told of one directory, each by itself. Ten thousand pipes, or files of an owner that is not known
// here, are one mistake: told one by one they would hide all others, here and on every node that hears of them.
const mostAlike = 20

// directoryProblems is what is wrong with one directory. What is more than mostAlike of a kind is one problem, which counts them.
func (h *house) directoryProblems(d *syncer.Directory) (out []control.Problem) {
	surplus := map[syncer.FaultCode][]syncer.Fault{}
	told := map[syncer.FaultCode]int{}
	for _, f := range d.Status().Faults { // the oldest first
		if told[f.Code]++; told[f.Code] <= mostAlike {
			out = append(out, h.faultProblem(d, f))
		} else {
			surplus[f.Code] = append(surplus[f.Code], f)
		}
	}
	for code, faults := range surplus {
		out = append(out, h.problem(control.Code(code), faults[0].Since, fmt.Sprintf("%s: and %d more of these", d.Name, len(faults)),
			fmt.Sprintf("%d are told one by one; the next would be %s/%s", mostAlike, d.Name, printable(faults[0].Path)), "ls -laR "+d.Path))
	}
	return out
}
