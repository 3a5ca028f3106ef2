package agent

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"certswarm/internal/control"
	"certswarm/internal/fleet"
	"certswarm/nginx"
	"certswarm/syncer"
	"certswarm/syncer/index"
)

// Barrier implements control.Steward.
func (a *Agent) Barrier(ctx context.Context, wish control.Wish, say func(missing []string) error) error {
	return a.inHouse(ctx, func(h *house) error { return h.awaitWish(ctx, wish, say) })
}

// awaitWish is the barrier for files that other programs wrote: it returns when every live node has the file, and serves it if that is
// wished. What was written just before counts, noticed or not, and so does what it was changed to meanwhile.
func (h *house) awaitWish(ctx context.Context, wish control.Wish, say func(missing []string) error) error {
	d, p, err := h.locate(wish.Directory, wish.Path)
	switch {
	case err != nil:
		return err
	case p.IsZero():
		return errors.New("which file? --path names one in the directory")
	}
	if strings.HasSuffix(wish.Path, "/") {
		return notAFile(d, wish.Path)
	}
	if err := d.Rescan(ctx); err != nil {
		return err
	}
	if e := d.Lookup(behindLinks(d, p)); e != nil && isDirectory(e) {
		return notAFile(d, wish.Path)
	}
	var said []string
	for {
		changed := h.changed.wait()
		missing := h.lacking(d, behindLinks(d, p))
		if len(missing) == 0 && wish.Host != "" {
			missing = h.notServing(ctx, d, p, wish.Host)
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case h.left.Load():
			return errLeft
		case len(missing) == 0:
			return nil
		case !slices.Equal(missing, said):
			if err := say(missing); err != nil {
				return err
			}
			said = missing
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-time.After(wishPause):
		}
	}
}

// behindLinks returns where a file lies whose path goes through links, as they are in the fleet's eyes: live/NAME of a declared certificate leads to the
// generation that is wished for.
func behindLinks(d *syncer.Directory, p index.Path) index.Path {
	const most = 40 // links, as the kernel follows
	for range most {
		dir := p.Parent()
		for ; !dir.IsZero(); dir = dir.Parent() {
			if e := d.Lookup(dir); e != nil && isLink(e) {
				break
			}
		}
		if dir.IsZero() {
			break
		}
		to, inside := dir.Resolve(d.Lookup(dir).Content.(index.Symlink).Target)
		next, err := index.ParsePath(to.String() + strings.TrimPrefix(p.String(), dir.String()))
		if !inside || err != nil {
			break
		}
		p = next
	}
	return p
}

func isLink(e *index.Entry) bool { _, is := e.Content.(index.Symlink); return is }

func notAFile(d *syncer.Directory, path string) error {
	return fmt.Errorf("%s names a directory in %s, and a barrier waits for a file: name one of those in it, or for all of them: certswarm wait --for synced", printable(path), d.Name)
}

func isDirectory(e *index.Entry) bool { _, is := e.Content.(index.Directory); return is }

// wishPause is how long after a round that failed the nodes are looked at again, whatever changed.
const wishPause = time.Second

// lacking says which live nodes do not have a file: connected, and with its directory.
func (h *house) lacking(d *syncer.Directory, p index.Path) []string {
	e := d.Lookup(p)
	here := e != nil && !e.Deleted() && !isDirectory(e)
	var have []fleet.NodeID
	if here {
		look := func(holders []fleet.NodeID) bool { have = holders; return true }
		if err := d.Await(context.Background(), syncer.ReceiptFor(e), look); err != nil { // it does not wait for what is true at once
			return []string{err.Error()}
		}
	}
	var out []string
	met := d.Status().Peers
	for _, m := range h.roster.Load().Members() {
		if m.Role == fleet.Witness || slices.Contains(have, m.ID) {
			continue
		}
		_, connected := h.mesh.Session(m.ID)
		_, shares := met[m.ID]
		switch {
		case m.ID == h.self.ID && !here:
			out = append(out, fmt.Sprintf("%s has no %s in directory %s", m.Name, printable(p.String()), d.Name))
		case m.ID == h.self.ID || connected && shares && here:
			out = append(out, m.Name+" does not have it yet")
		case connected && shares:
			out = append(out, m.Name+" is not known to have it")
		}
	}
	return out
}

// servedWish asks a node whether its own nginx serves a file.
type servedWish struct {
	Path   string `json:"path"` // of the URL
	Host   string `json:"host"`
	Digest []byte `json:"digest"` // SHA-256 of the file
}

// callServed is servedWish -> challengeAnswer.
const callServed = "served"

// notServing says which live nodes do not serve a file. One that has no nginx in its care, and where nobody answers, does not count.
func (h *house) notServing(ctx context.Context, d *syncer.Directory, p index.Path, host string) []string {
	content, err := d.ReadFile(p, wishMax)
	if err != nil {
		return []string{fmt.Sprintf("%s cannot be read here: %v", printable(p.String()), err)}
	}
	digest := sha256.Sum256(content)
	wish := servedWish{Host: host, Digest: digest[:]}
	wish.Path = (&url.URL{Path: "/" + strings.TrimPrefix(p.String(), acmeDir+"/")}).EscapedPath()
	var mu sync.Mutex
	var out []string
	var all sync.WaitGroup
	for _, m := range h.roster.Load().Members() {
		if m.Role == fleet.Witness {
			continue
		}
		all.Go(func() {
			var answer challengeAnswer
			if m.ID == h.self.ID {
				answer = h.tryWish(ctx, wish)
			} else if err := h.ask(ctx, m.ID, callServed, wish, &answer); err != nil {
				if _, connected := h.mesh.Session(m.ID); !connected {
					return
				}
				answer.Reason = err.Error()
			}
			if !answer.Served && !answer.Absent {
				mu.Lock()
				defer mu.Unlock()
				out = append(out, fmt.Sprintf("%s does not serve it: %s", m.Name, answer.Reason))
			}
		})
	}
	all.Wait()
	slices.Sort(out)
	return out
}

// wishMax is how large a file can be that is awaited on a web server: that of a challenge is a line.
const wishMax = 64 << 10

func (h *house) answerServed(ctx context.Context, _ fleet.NodeID, body []byte) ([]byte, error) {
	var wish servedWish
	if err := json.Unmarshal(body, &wish); err != nil {
		return nil, err
	}
	return json.Marshal(h.tryWish(ctx, wish))
}

// tryWish asks this node's own nginx for a file.
func (h *house) tryWish(ctx context.Context, wish servedWish) challengeAnswer {
	address := "127.0.0.1:80" // as acme.http01_address, where there is no such section
	if h.cfg.ACME != nil {
		address = h.cfg.ACME.HTTP01Address
	}
	if !strings.HasPrefix(wish.Path, "/") {
		return challengeAnswer{Reason: "not a path"}
	}
	body, err := nginx.Fetcher{Dial: h.edges.Dial, UserAgent: "certswarm/" + h.version}.Get(ctx, address, wish.Host, wish.Path)
	digest := sha256.Sum256(body)
	switch {
	case err != nil && !h.cfg.Nginx.Enabled && errors.Is(err, syscall.ECONNREFUSED):
		return challengeAnswer{Absent: true}
	case err != nil:
		return challengeAnswer{Reason: err.Error()}
	case string(digest[:]) != string(wish.Digest):
		return challengeAnswer{Reason: fmt.Sprintf("http://%s%s at %s answers something else", wish.Host, wish.Path, address)}
	}
	return challengeAnswer{Served: true}
}
