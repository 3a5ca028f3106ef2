package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os/user"
	"strconv"
	"syscall"
	"time"
)

// ErrNoDaemon says that nobody answered on the control socket, as opposed to a daemon that refused.
var ErrNoDaemon = errors.New("no daemon answers")

// ErrDenied says that a daemon may be there, but that this user may not speak to it.
var ErrDenied = errors.New("permission denied")

// askTimeout is for answers that the daemon gives from memory, and for silence in a watch beyond its heartbeat.
const askTimeout = 10 * time.Second

// Client speaks to the daemon on a control socket.
type Client struct {
	path  string
	guess string // why path may be the wrong one; "" when it is known
	http  *http.Client
}

// Dial returns a Client for the socket at path. It connects anew for every request; nothing needs closing.
func Dial(path string) *Client {
	var dialer net.Dialer
	return &Client{path: path, http: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		},
	}}}
}

// Guessed returns c such that it says, when nobody answers, that its path was a guess, and why.
func (c *Client) Guessed(why string) *Client {
	guess := *c
	guess.guess = why
	return &guess
}

// Status asks how things stand. The error is ErrNoDaemon or ErrDenied (wrapped) when nobody answered.
func (c *Client) Status(ctx context.Context) (Status, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, askTimeout, errSilent)
	defer cancel()
	var status Status
	err := c.call(ctx, http.MethodGet, "/v1/status", &status)
	return status, err
}

// Watch calls next with the status now and after every change, until next returns false or ctx ends, which is its error.
// A daemon that ends or falls silent is ErrNoDaemon (wrapped).
func (c *Client) Watch(ctx context.Context, next func(Status) bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(askTimeout, func() { cancel(errSilent) })
	defer silence.Stop()

	response, err := c.send(ctx, http.MethodGet, "/v1/status?watch=1")
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }() // it was only read from
	for lines := json.NewDecoder(response.Body); ; {
		var status Status
		if err := lines.Decode(&status); err != nil {
			return c.explain(ctx, err)
		}
		silence.Reset(streamHeartbeat + askTimeout)
		if !next(status) {
			return nil
		}
	}
}

// Reload makes the daemon read its configuration again; the error says why it kept the old one, and is ErrConfigWrong
// (wrapped) when that is what its files say.
func (c *Client) Reload(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/reload", nil)
}

// Verify makes the fleet handshake with its listeners for the named certificate, or for every one when name is "". The
// error is ErrUnknownCertificate (wrapped) when none is declared under that name.
func (c *Client) Verify(ctx context.Context, name string) (Verification, error) {
	var v Verification
	err := c.call(ctx, http.MethodPost, "/v1/verify?name="+url.QueryEscape(name), &v)
	return v, err
}

// Rescan makes the daemon read every directory again, and returns when it has.
func (c *Client) Rescan(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/rescan", nil)
}

// Resume ends a directory's halt; see Daemon.
func (c *Client) Resume(ctx context.Context, directory string, accept bool) error {
	query := url.Values{"directory": {directory}}
	if accept {
		query.Set("accept", "1")
	}
	return c.call(ctx, http.MethodPost, "/v1/resume?"+query.Encode(), nil)
}

// History asks what the node's archive has; see Daemon.
func (c *Client) History(ctx context.Context, directory, path string) (History, error) {
	var h History
	query := url.Values{"directory": {directory}, "path": {path}}
	err := c.call(ctx, http.MethodGet, "/v1/history?"+query.Encode(), &h)
	return h, err
}

// Restore puts an earlier version back; see Daemon.
func (c *Client) Restore(ctx context.Context, r Restoration) (Restored, error) {
	query := url.Values{"directory": {r.Directory}, "path": {r.Path}, "version": {r.Version}}
	if r.Force {
		query.Set("force", "1")
	}
	var done Restored
	err := c.call(ctx, http.MethodPost, "/v1/restore?"+query.Encode(), &done)
	return done, err
}

// RollBack makes an earlier generation of a certificate the one in force; see Daemon.
func (c *Client) RollBack(ctx context.Context, name string, generation int) (RolledBack, error) {
	query := url.Values{"name": {name}, "generation": {strconv.Itoa(generation)}}
	var back RolledBack
	err := c.call(ctx, http.MethodPost, "/v1/rollback?"+query.Encode(), &back)
	return back, err
}

// call sends a request and decodes its answer into answer, unless that is nil.
func (c *Client) call(ctx context.Context, method, target string, answer any) error {
	response, err := c.send(ctx, method, target)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }() // it was only read from
	if answer == nil {
		return nil
	}
	if err := json.NewDecoder(response.Body).Decode(answer); err != nil {
		return c.explain(ctx, err)
	}
	return nil
}

// send returns a successful answer, whose body the caller closes, or an error.
func (c *Client) send(ctx context.Context, method, target string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://certswarm"+target, nil)
	if err != nil {
		return nil, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	if response.StatusCode < http.StatusMultipleChoices {
		return response, nil
	}
	defer func() { _ = response.Body.Close() }() // it was only read from
	var refused refusal
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	switch {
	case err != nil:
		return nil, c.explain(ctx, err)
	case json.Unmarshal(text, &refused) != nil || refused.Error == "":
		return nil, fmt.Errorf("the daemon at %s answers %s: is it of another version than this command?", c.path, response.Status)
	case response.StatusCode == http.StatusNotFound:
		return nil, remote{refused.Error, ErrUnknownCertificate}
	case response.StatusCode == http.StatusConflict:
		return nil, remote{refused.Error, ErrNotHeld}
	case refused.AtPlaces:
		return nil, remote{refused.Error, ErrConfigWrong}
	}
	return nil, remote{refused.Error, nil}
}

// remote is a refusal in the daemon's own words.
type remote struct {
	text string
	kind error // what a caller decides by, or nil
}

func (r remote) Error() string { return r.text }
func (r remote) Unwrap() error { return r.kind }

var errSilent = errors.New("the daemon is silent")

// explain turns what went wrong below HTTP into what a person can act upon.
func (c *Client) explain(ctx context.Context, err error) error {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errSilent), errors.Is(err, syscall.EAGAIN): // EAGAIN: the backlog of a frozen daemon is full
		return remote{fmt.Sprintf("the daemon at %s has the socket open but does not answer: journalctl -u certswarm", c.path), ErrNoDaemon}
	case cause != nil:
		return cause
	case errors.Is(err, fs.ErrPermission):
		return remote{c.denied(), ErrDenied}
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		if c.guess != "" {
			return remote{fmt.Sprintf("no daemon answers at %s, which is a guess (%s): name the socket with --socket", c.path, c.guess), ErrNoDaemon}
		}
		return remote{fmt.Sprintf("no daemon answers at %s: is certswarm running? systemctl status certswarm", c.path), ErrNoDaemon}
	case errors.As(err, new(*json.SyntaxError)), errors.As(err, new(*json.UnmarshalTypeError)):
		return fmt.Errorf("the daemon at %s answers what this command cannot read; is it of another version? %w", c.path, err)
	}
	return remote{fmt.Sprintf("the daemon at %s went away while it was asked (%v): systemctl status certswarm", c.path, err), ErrNoDaemon}
}

// denied names the group that would let this user in.
func (c *Client) denied() string {
	text := fmt.Sprintf("%s: permission denied", c.path)
	var found syscall.Stat_t
	if err := syscall.Stat(c.path, &found); err != nil {
		return text + ": run this as root or as the daemon's user"
	}
	group := strconv.FormatUint(uint64(found.Gid), 10)
	if named, err := user.LookupGroupId(group); err == nil {
		group = named.Name
	}
	return fmt.Sprintf("%s: run this as root or as a member of group %s", text, group)
}
