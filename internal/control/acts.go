package control

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// Auditor is implemented by a Daemon that remembers what people changed.
type Auditor interface {
	// Audit is told of each act when it has ended. It must not wait for the disk: whoever asked waits for it.
	Audit(Act)
}

// Act is something that somebody asked for over the socket, and that changes something. It is a line of the audit log.
type Act struct {
	Time Time `json:"time"` // when it was asked for
	// UID and PID are the kernel's word of whose process asked (unix(7), SO_PEERCRED); -1 where it says nothing.
	UID int64 `json:"uid"`
	PID int64 `json:"pid"`
	// Act is what a person types: "cert renew".
	Act       string            `json:"act"`
	Arguments map[string]string `json:"arguments"` // those that were given; none is ever a secret
	Outcome   ActOutcome        `json:"outcome"`
	Error     string            `json:"error"` // why it failed
}

// ActOutcome is what became of an Act.
type ActOutcome string

// The outcomes.
const (
	ActDone   ActOutcome = "done"
	ActFailed ActOutcome = "failed"
	// ActLeft is one that nobody waited for: whoever asked left, or the daemon was stopped. An issuance goes on.
	ActLeft ActOutcome = "left"
)

// longestTold bounds in bytes what an Act holds of each text that others chose.
const longestTold = 500

// changes registers what changes something; arguments are the keys of its query.
func (s *Server) changes(pattern, act string, answer http.HandlerFunc, arguments ...string) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		auditor, audits := s.daemon.(Auditor)
		if !audits {
			answer(w, r)
			return
		}
		done := Act{Time: At(time.Now()), UID: -1, PID: -1, Act: act, Arguments: make(map[string]string)}
		if c, known := r.Context().Value(callerKey{}).(caller); known {
			done.UID, done.PID = int64(c.uid), int64(c.pid)
		}
		query := r.URL.Query()
		for _, key := range arguments {
			if value := query.Get(key); value != "" && value != "0" {
				done.Arguments[key] = bounded(value)
			}
		}
		if done.Act == "cert issue" && done.Arguments["renew"] != "" {
			done.Act = "cert renew"
			delete(done.Arguments, "renew")
		}
		j := &judged{ResponseWriter: w, asked: r.Context(), outcome: ActDone}
		answer(j, r)
		done.Outcome, done.Error = j.outcome, bounded(j.err)
		auditor.Audit(done)
	})
}

func bounded(text string) string {
	if len(text) > longestTold {
		text = text[:longestTold] + "..."
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// judged is the answer to an act, which remembers what became of it.
type judged struct {
	http.ResponseWriter
	asked   context.Context // ends when whoever asked leaves
	outcome ActOutcome
	err     string
}

// Unwrap is for http.ResponseController.
func (j *judged) Unwrap() http.ResponseWriter { return j.ResponseWriter }

// judge notes what became of what w answers to, if anybody wants to know.
func judge(w http.ResponseWriter, outcome ActOutcome, err string) {
	j, asked := w.(*judged)
	if !asked {
		return
	}
	if j.outcome, j.err = outcome, err; outcome == ActFailed && j.asked.Err() != nil {
		j.outcome = ActLeft
	}
}

// caller is the process at the other end of a connection. It is the connection's remote address, which a listener that
// wraps this one hands on.
type caller struct {
	uid uint32
	pid int32
}

type callerKey struct{}

// Network implements net.Addr.
func (caller) Network() string { return "unix" }

func (c caller) String() string { return fmt.Sprintf("uid %d pid %d", c.uid, c.pid) }

// knowing is a listener whose connections know their caller.
type knowing struct{ net.Listener }

func (k knowing) Accept() (net.Conn, error) {
	conn, err := k.Listener.Accept()
	unix, ok := conn.(*net.UnixConn)
	if err != nil || !ok {
		return conn, err
	}
	raw, err := unix.SyscallConn()
	if err != nil {
		return conn, nil
	}
	known := called{Conn: conn}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		var cred *syscall.Ucred
		if cred, failed = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); failed == nil {
			known.by = caller{cred.Uid, cred.Pid}
		}
	}); err != nil || failed != nil {
		return conn, nil
	}
	return known, nil
}

// called is a connection that knows its caller.
type called struct {
	net.Conn
	by caller
}

// RemoteAddr implements net.Conn.
func (c called) RemoteAddr() net.Addr { return c.by }
