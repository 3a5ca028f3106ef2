package frontend

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"os/signal"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// standin is the serving stand-in.
type standin struct {
	site     atomic.Pointer[site] // what is in force; a reload swaps it whole
	servers  []*http.Server
	errorLog *log.Logger

	accessMu sync.Mutex
	access   io.Writer // guarded by accessMu: lines of concurrent requests stay whole
}

// serve answers as first says until a signal ends it; load reads the configuration anew for each SIGHUP.
func serve(first *site, load func() (*site, error)) (err error) {
	// Before the pid file tells anybody where to send them.
	asked := make(chan os.Signal, 16)
	signal.Notify(asked, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(asked)

	errorFile, err := openLog(first.errorLog)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, errorFile.Close()) }()
	s := &standin{errorLog: log.New(errorFile, "", log.LstdFlags), access: io.Discard}
	s.site.Store(first)
	if first.accessLog != "" {
		accessFile, err := openLog(first.accessLog)
		if err != nil {
			return err
		}
		defer func() { _ = accessFile.Close() }() // every line was written, or its error reported, already
		s.access = accessFile
	}

	listeners, err := listen(first.endpoints)
	if err != nil {
		return err
	}
	failed := make(chan error, len(listeners))
	var serving sync.WaitGroup
	for i, l := range listeners {
		// By its number: every site that is ever in force has the same endpoints in the same order.
		current := func() endpoint { return s.site.Load().endpoints[i] }
		if current().tls {
			l = tls.NewListener(l, &tls.Config{
				MinVersion: tls.VersionTLS12,
				NextProtos: []string{"http/1.1"},
				GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
					return current().choose(hello.ServerName).certificate, nil
				},
			})
		}
		srv := &http.Server{
			Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.answer(current(), w, r) }),
			ErrorLog:          s.errorLog,
			ReadHeaderTimeout: 10 * time.Second,
		}
		s.servers = append(s.servers, srv)
		serving.Go(func() { failed <- srv.Serve(l) })
	}
	defer serving.Wait()
	defer func() { err = errors.Join(err, s.close()) }()

	if err := replace(first.pidFile, fmt.Appendln(nil, os.Getpid()), 0o644); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(first.pidFile)) }()
	return s.obey(asked, failed, load)
}

// obey does what the signals ask for, until one asks for the end.
func (s *standin) obey(asked <-chan os.Signal, failed <-chan error, load func() (*site, error)) error {
	for {
		select {
		case err := <-failed:
			return err
		case sig := <-asked:
			switch sig {
			case syscall.SIGHUP:
				if err := s.reload(load); err != nil {
					s.errorLog.Printf("[emerg] %d: %v", os.Getpid(), err)
				}
			case syscall.SIGQUIT:
				return s.finish()
			default:
				return nil
			}
		}
	}
}

// reload puts what load returns in force, or leaves all as it was.
func (s *standin) reload(load func() (*site, error)) error {
	next, err := load()
	if err != nil {
		return err
	}
	same := func(a, b endpoint) bool { return a.address == b.address && a.tls == b.tls }
	if !slices.EqualFunc(s.site.Load().endpoints, next.endpoints, same) {
		return errors.New("the stand-in cannot listen elsewhere than it was started with")
	}
	s.site.Store(next)
	// nginx hands idle connections to nobody: its old workers close them. This is how net/http spells that.
	for _, srv := range s.servers {
		srv.SetKeepAlivesEnabled(false)
		srv.SetKeepAlivesEnabled(true)
	}
	s.errorLog.Printf("[notice] %d: reconfigured", os.Getpid())
	return nil
}

// finish lets requests that are being answered end. nginx would wait for them as long as it takes, or until SIGTERM;
// this hears no signal meanwhile, and so has a bound.
func (s *standin) finish() error {
	ctx, cancel := context.WithTimeout(context.Background(), quitPatience/2)
	defer cancel()
	for _, srv := range s.servers {
		if err := srv.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
	}
	return nil
}

func (s *standin) close() error {
	var errs []error
	for _, srv := range s.servers {
		errs = append(errs, srv.Close())
	}
	return errors.Join(errs...)
}

func openLog(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
}

// listen opens every endpoint's socket, or none.
func listen(endpoints []endpoint) ([]net.Listener, error) {
	var listeners []net.Listener
	for _, e := range endpoints {
		l, err := net.Listen("tcp", e.address)
		if err != nil {
			for _, opened := range listeners {
				err = errors.Join(err, opened.Close())
			}
			return nil, fmt.Errorf("bind() to %s failed: %w", e.address, err)
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

// choose returns the server that is asked for by name, or the default one.
func (e endpoint) choose(name string) server {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	for _, exact := range []bool{true, false} {
		for _, srv := range e.servers {
			for _, known := range srv.names {
				wild, isWild := strings.CutPrefix(known, "*")
				if exact && strings.EqualFold(known, name) || !exact && isWild && strings.HasSuffix(name, strings.ToLower(wild)) {
					return srv
				}
			}
		}
	}
	return e.servers[0]
}

// answer serves one request and logs it.
func (s *standin) answer(e endpoint, w http.ResponseWriter, r *http.Request) {
	logged := &statusWriter{ResponseWriter: w, status: http.StatusOK}
	w.Header().Set("Server", standinProduct)
	e.choose(host(r)).answer(logged, r)
	line := os.Expand(s.site.Load().logFormat, func(variable string) string {
		if variable == "status" {
			return fmt.Sprint(logged.status)
		}
		return escape(variables[variable](r))
	})
	s.accessMu.Lock()
	defer s.accessMu.Unlock()
	if _, err := fmt.Fprintln(s.access, line); err != nil {
		s.errorLog.Printf("[alert] %d: the access log: %v", os.Getpid(), err)
	}
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (srv server) answer(w http.ResponseWriter, r *http.Request) {
	if srv.reply != nil {
		srv.reply.answer(w, r)
		return
	}
	l := srv.locate(normal(r.URL.Path))
	if l.root != "" && l.reply == nil {
		if serveFile(w, r, l.root) {
			return
		}
		l = srv.named(l.fallback)
	}
	switch {
	case l.reply != nil:
		l.reply.answer(w, r)
	case l.proxy != nil:
		l.proxy.ServeHTTP(w, r)
	default:
		http.NotFound(w, r)
	}
}

// normal returns the path without dots and doubled slashes, but with the slash at its end, as nginx compares it.
func normal(uri string) string {
	clean := path.Clean("/" + uri)
	if strings.HasSuffix(uri, "/") && clean != "/" {
		clean += "/"
	}
	return clean
}

// locate returns the location with the longest prefix of uri.
func (srv server) locate(uri string) (best location) {
	for _, l := range srv.locations {
		if strings.HasPrefix(uri, l.prefix) && len(l.prefix) > len(best.prefix) {
			best = l
		}
	}
	return best
}

func (srv server) named(name string) location {
	for _, l := range srv.locations {
		if l.prefix == name && name != "" {
			return l
		}
	}
	return location{}
}

// serveFile answers with the regular file that r names below root, and says false if there is none.
func serveFile(w http.ResponseWriter, r *http.Request, root string) bool {
	file, err := os.Open(filepath.Join(root, path.Clean("/"+r.URL.Path)))
	if err != nil {
		return false
	}
	defer func() { _ = file.Close() }() // only read from
	about, err := file.Stat()
	if err != nil || !about.Mode().IsRegular() {
		return false
	}
	w.Header().Set("Content-Type", "text/plain")
	http.ServeContent(w, r, "", about.ModTime(), file)
	return true
}

func (r *reply) answer(w http.ResponseWriter, req *http.Request) {
	text := os.Expand(r.text, func(variable string) string { return variables[variable](req) })
	w.Header().Set("Content-Type", "text/plain")
	if r.status >= 300 && r.status < 400 {
		w.Header().Set("Location", text)
		text = ""
	}
	w.WriteHeader(r.status)
	_, _ = io.WriteString(w, text) // a client that has gone is no concern of the server's
}

// newProxy hands requests to the server behind a Unix socket; one that is not there makes it a 502, as in nginx.
func newProxy(socket string) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Scheme, pr.Out.URL.Host = "http", "localhost"
			pr.Out.Host = host(pr.In)
		},
		Transport: &http.Transport{
			// A connection each, as nginx does by default: none outlives the site that it was opened for.
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", socket)
			},
		},
	}
}

// variables are nginx's, as far as they are known here. $status is known to the log alone.
var variables = map[string]func(*http.Request) string{
	"host":            host,
	"request_uri":     func(r *http.Request) string { return r.RequestURI },
	"request":         func(r *http.Request) string { return r.Method + " " + r.RequestURI + " " + r.Proto },
	"http_user_agent": func(r *http.Request) string { return r.UserAgent() },
	"time_iso8601":    func(*http.Request) string { return time.Now().Format("2006-01-02T15:04:05-07:00") },
	"remote_addr": func(r *http.Request) string {
		address, _, _ := net.SplitHostPort(r.RemoteAddr) // net/http always writes host:port here
		return address
	},
	"status": func(*http.Request) string { return "" },
}

func host(r *http.Request) string {
	name := r.Host
	if h, _, err := net.SplitHostPort(name); err == nil {
		name = h
	}
	return strings.ToLower(name)
}

// checkVariables refuses text with a variable that is not known.
func checkVariables(text string) error {
	var err error
	os.Expand(text, func(variable string) string {
		if variables[variable] == nil {
			err = fmt.Errorf("unknown %q variable", variable)
		}
		return ""
	})
	return err
}

// escape makes value safe between quotes on one line of a log, as nginx does by default.
func escape(value string) string {
	if value == "" {
		return "-"
	}
	var b strings.Builder
	for _, c := range []byte(value) {
		if c == '"' || c == '\\' || c < ' ' || c >= 0x7f {
			fmt.Fprintf(&b, `\x%02X`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
