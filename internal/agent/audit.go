package agent

import (
	"encoding/json"
	"time"

	"certswarm/internal/control"
)

const (
	auditFile  = "audit.log" // in the state directory; the one before is audit.log.1
	auditLimit = 1 << 20     // bytes of each of the two

	// auditQueue is how many acts wait for a disk; people give few commands.
	auditQueue = 64
	// auditPatience is for a disk that does not answer when the daemon ends, which has five seconds for all of it.
	auditPatience = time.Second
)

var _ control.Auditor = (*Agent)(nil)

// Audit implements control.Auditor.
func (a *Agent) Audit(act control.Act) {
	select {
	case a.acts <- act:
	default:
		a.unaudited(act, "the disk does not answer")
	}
}

// unaudited puts into the daemon's log what the audit log lacks.
func (a *Agent) unaudited(act control.Act, reason string) {
	a.log.Error("an act is not in the audit log", "reason", reason, "act", act)
}

// keepAudit writes down what people change, until ended is closed and all of it is on the disk.
func (a *Agent) keepAudit(ended <-chan struct{}) {
	for {
		select {
		case act := <-a.acts:
			a.writeAct(act)
		case <-ended:
			for {
				select {
				case act := <-a.acts:
					a.writeAct(act)
				default:
					return
				}
			}
		}
	}
}

func (a *Agent) writeAct(act control.Act) {
	line, err := json.Marshal(act)
	if err == nil {
		h := a.house.Load()
		err = h.appendState(auditFile, append(line, '\n'), auditLimit)
	}
	if err != nil {
		a.unaudited(act, err.Error())
	}
}

// appendState appends to a file in the state directory, also while the house is being left.
func (h *house) appendState(name string, line []byte, limit int64) (err error) {
	root, err := h.state.Beside(h.cfg.StateDir)
	if err != nil {
		return err
	}
	defer root.Close() // what was appended is durable already: no news in its error
	return root.Append(name, line, limit)
}

// endAudit waits until keepAudit has ended, unless its disk does not answer.
func (a *Agent) endAudit(ended chan<- struct{}, audited <-chan struct{}) {
	close(ended)
	select {
	case <-audited:
	case <-time.After(auditPatience):
		a.log.Error("the last acts may be missing from the audit log", "reason", "the disk does not answer")
	}
}
