package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/net/netutil"
)

// Daemon is what the socket speaks for. Its methods may be called from many goroutines at once.
type Daemon interface {
	// Status returns how things stand now. It must not wait for disk or network: people ask when those hang. The
	// caller may keep what it returns.
	Status() Status

	// Changed returns a channel that is closed at the next change of Status. Whoever asks for the channel first and
	// the status second misses nothing.
	Changed() <-chan struct{}

	// Reload reads the configuration again. An error means that the old one stays in force, and says why; one that has a
	// method AtPlaces is what is wrong in the files, and reaches the caller as ErrConfigWrong.
	Reload(context.Context) error

	// Verify handshakes with every listener of the fleet for the named certificate, or for every one when name is "".
	// The error is ErrUnknownCertificate (wrapped) when none is declared under that name.
	Verify(ctx context.Context, name string) (Verification, error)

	// Rescan reads every directory again and returns when what is on the disk by now is known.
	Rescan(context.Context) error

	// Resume ends a directory's halt: what was deleted is put back, or with accept the deletions go out to the fleet. The
	// error says so when there is no such directory or no halt.
	Resume(ctx context.Context, directory string, accept bool) error

	// History tells what this node's archive has of a path, or with "" which paths it has anything of. directory may be "" where
	// there is only one, or where path is absolute.
	History(ctx context.Context, directory, path string) (History, error)

	// Restore puts an earlier version back, and what it makes a pair with. The error says who may, or why it would do harm.
	Restore(context.Context, Restoration) (Restored, error)

	// RollBack makes an earlier generation of a certificate the one that the fleet wants in force; 0 is the one before that in force. The
	// error is ErrUnknownCertificate (wrapped) when none is declared under that name.
	RollBack(ctx context.Context, name string, generation int) (RolledBack, error)

	Certifier
}

// Counter is implemented by a Daemon that has more to tell Prometheus than its Status holds.
type Counter interface {
	// Counters returns families of monotonic counts, in the order in which they are to be told.
	Counters() []Counts
}

// Counts is one family of counters.
type Counts struct {
	Name   string             // such as certswarm_orders_total
	Help   string             // one line
	Label  string             // what Values is by; "" where there is one value alone, by ""
	Values map[string]float64 // by the label's value
}

// ErrUnknownCertificate says that no certificate is declared under the name that was asked for.
var ErrUnknownCertificate = errors.New("no certificate is declared under that name")

// ErrConfigWrong says that the files of the configuration are wrong. Every line of its text begins with the place:
// FILE:LINE:COL: what; what to write instead.
var ErrConfigWrong = errors.New("the configuration is wrong")

const (
	streamPause     = 100 * time.Millisecond // changes closer than this travel as one
	streamHeartbeat = 10 * time.Second       // a watcher hears at least this often, so that silence means trouble
	lineTimeout     = 10 * time.Second       // for a watcher to take one line
	drainTimeout    = time.Second            // for requests under way when the daemon ends
	headerTimeout   = 10 * time.Second       // for a request, and for another one on the same connection

	// connections are served at once; more wait in the kernel until one ends. Each costs one of the descriptors that the
	// rest of the daemon lives on. Those that last are of people who watch or follow, of lease tenures and of scrapers: a
	// dozen on a busy day, so that short questions always find room. Half a request holds its place for headerTimeout.
	connections = 128
)

// Server answers on the control socket.
type Server struct {
	daemon Daemon
	log    *slog.Logger
	mux    *http.ServeMux
}

// NewServer returns a Server that speaks for daemon.
func NewServer(daemon Daemon, log *slog.Logger) *Server {
	s := &Server{daemon: daemon, log: log, mux: http.NewServeMux()}
	s.mux.HandleFunc("GET /v1/status", s.status)
	s.changes("POST /v1/reload", "reload", s.reload)
	s.mux.HandleFunc("POST /v1/verify", s.verify)
	s.mux.HandleFunc("POST /v1/rescan", s.rescan)
	s.changes("POST /v1/resume", "resume", s.resume, "directory", "accept")
	s.mux.HandleFunc("GET /v1/history", s.history)
	s.changes("POST /v1/restore", "restore", s.restore, "directory", "path", "version", "force")
	s.changes("POST /v1/rollback", "cert rollback", s.rollBack, "name", "generation")
	s.changes("POST /v1/cert/obtain", "cert issue", s.obtain, "name", "renew", "force", "dry_run", "no_wait")
	s.changes("POST /v1/cert/revoke", "cert revoke", s.revoke, "name", "reason", "no_wait")
	s.mux.HandleFunc("GET /v1/cert/attempts", s.attempts)
	s.mux.HandleFunc("GET /v1/events", s.events)
	s.mux.HandleFunc("GET /metrics", s.metrics)
	s.leaseRoutes()
	return s
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Serve answers on ln until ctx ends and closes it. Requests under way are cancelled with ctx and given a second to say
// so. The error is nil when ctx was the reason.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	server := &http.Server{
		Handler:     s,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, callerKey{}, conn.RemoteAddr())
		},
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       headerTimeout,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	drained := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(drained)
		within, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		if server.Shutdown(within) != nil {
			_ = server.Close() // those that did not end in time are cut off
		}
	})
	err := server.Serve(netutil.LimitListener(knowing{ln}, connections))
	if stop() {
		return errors.Join(fmt.Errorf("control socket: %w", err), server.Close())
	}
	<-drained
	return nil
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("watch") == "" {
		s.answer(w, http.StatusOK, s.daemon.Status())
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := http.NewResponseController(w)
	lines := json.NewEncoder(w)
	err := stream(r.Context(), s.daemon, func(status Status) error {
		if err := out.SetWriteDeadline(time.Now().Add(lineTimeout)); err != nil {
			return err
		}
		if err := lines.Encode(status); err != nil {
			return err
		}
		return out.Flush()
	})
	s.log.Debug("a watcher of the status left", "reason", err)
}

// stream emits the status at once, then at every change and at least every streamHeartbeat, until ctx ends or emit
// fails.
func stream(ctx context.Context, daemon Daemon, emit func(Status) error) error {
	for {
		changed := daemon.Changed() // before Status: a change between the two is then seen twice, never missed
		if err := emit(daemon.Status()); err != nil {
			return err
		}
		if err := sleep(ctx, nil, streamPause); err != nil {
			return err
		}
		if err := sleep(ctx, changed, streamHeartbeat-streamPause); err != nil {
			return err
		}
	}
}

// sleep returns nil after d or when wake is closed, and the reason when ctx ends first.
func sleep(ctx context.Context, wake <-chan struct{}, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-wake:
	case <-timer.C:
	}
	return nil
}

func (s *Server) reload(w http.ResponseWriter, r *http.Request) {
	err := s.daemon.Reload(r.Context())
	var wrong interface {
		error
		AtPlaces()
	}
	if errors.As(err, &wrong) {
		s.answer(w, http.StatusUnprocessableEntity, refusal{Error: wrong.Error(), AtPlaces: true})
		return
	}
	s.done(w, err)
}

func (s *Server) rescan(w http.ResponseWriter, r *http.Request) {
	s.done(w, s.daemon.Rescan(r.Context()))
}

func (s *Server) resume(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	s.done(w, s.daemon.Resume(r.Context(), query.Get("directory"), query.Get("accept") == "1"))
}

// done answers a command that has nothing to tell but its error.
func (s *Server) done(w http.ResponseWriter, err error) {
	if err != nil {
		s.answer(w, http.StatusUnprocessableEntity, refusal{Error: err.Error()})
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) verify(w http.ResponseWriter, r *http.Request) {
	verification, err := s.daemon.Verify(r.Context(), r.URL.Query().Get("name"))
	s.result(w, verification, err)
}

func (s *Server) history(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	history, err := s.daemon.History(r.Context(), query.Get("directory"), query.Get("path"))
	s.result(w, history, err)
}

func (s *Server) restore(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	restored, err := s.daemon.Restore(r.Context(), Restoration{
		Directory: query.Get("directory"), Path: query.Get("path"), Version: query.Get("version"), Force: query.Get("force") == "1",
	})
	s.result(w, restored, err)
}

func (s *Server) rollBack(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	generation := 0
	if text := query.Get("generation"); text != "" {
		var err error
		if generation, err = strconv.Atoi(text); err != nil {
			s.answer(w, http.StatusBadRequest, refusal{Error: fmt.Sprintf("a generation is a number, not %q", text)})
			return
		}
	}
	back, err := s.daemon.RollBack(r.Context(), query.Get("name"), generation)
	s.result(w, back, err)
}

// result answers a command that has something to tell.
func (s *Server) result(w http.ResponseWriter, body any, err error) {
	switch {
	case errors.Is(err, ErrUnknownCertificate):
		s.answer(w, http.StatusNotFound, refusal{Error: err.Error()})
	case err != nil:
		s.answer(w, http.StatusUnprocessableEntity, refusal{Error: err.Error()})
	default:
		s.answer(w, http.StatusOK, body)
	}
}

// refusal is the body of every answer that is not a success.
type refusal struct {
	Error    string `json:"error"`
	AtPlaces bool   `json:"at_places,omitempty"` // it is an ErrConfigWrong
}

func (s *Server) answer(w http.ResponseWriter, code int, body any) {
	if refused, is := body.(refusal); is {
		judge(w, ActFailed, refused.Error)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		s.log.Debug("an answer on the control socket was not taken", "reason", err)
	}
}
