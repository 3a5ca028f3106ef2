package agent

import (
	"crypto/rsa"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"certswarm/internal/agent/config"
	"certswarm/internal/control"
	"certswarm/nginx"
)

// furnish sees to it that live/NAME leads to a pair that nginx can load for every declared name, so that nginx can start: what is there, the
// generation that the fleet wishes if it is here, or a placeholder.
func (h *house) furnish() error {
	for _, c := range h.store.declared {
		if _, err := h.standIn(c); err != nil {
			return err
		}
	}
	return nil
}

// standIn is furnish for one certificate. changed says that nginx has something else to read now.
func (h *house) standIn(c config.Certificate) (changed bool, err error) {
	root := h.store.dir.Root()
	placed, err := nginx.EnsurePlaceholder(root, nginx.Placeholder{
		Name: c.Name, Names: c.Names, RSA: c.Key[0].IsRSA(), Like: h.store.hiddenBy(c), Generation: h.store.wished(c.Name), Owner: h.store.dir.LocalOwner(),
		Displace: func(target string) error { return h.store.dir.Displace(livePath(c.Name), target) },
	})
	if err != nil && placed.Broken == nil {
		return false, err
	}
	if placed.Warn != nil {
		h.log.Warn("a placeholder is not as it should be", "certificate", c.Name, "error", placed.Warn)
	}
	h.untaken.note(c.Name, placed, err)
	switch kept := placed.Kept; {
	case len(placed.Others) > 0:
		h.log.Warn("nginx cannot load what stands at the live link; it is left there, for it may be in use under other names",
			"certificate", c.Name, "why", placed.Broken, "files", placed.Others)
	case err != nil: // the other certificates need this agent: it starts all the same
		h.log.Error("nginx cannot load what stands at the live link, and no placeholder can take its place", "certificate", c.Name, "why", placed.Broken, "error", err)
		return false, nil
	case placed.Broken != nil:
		if kept == "" {
			kept = filepath.Join(h.cfg.StateDir, "archive", h.store.dir.Name, liveDir, c.Name)
		}
		h.log.Warn("nginx could not load what stood at the live link; it is set aside", "certificate", c.Name, "why", placed.Broken, "kept", kept)
	case placed.Made && h.store.standsIn(c.Name):
		h.log.Info("a placeholder lets nginx start until the first certificate is there", "certificate", c.Name)
	}
	return placed.Made, nil
}

// standInAgain is furnish for what changed since the start: a link that leads nowhere, because replication took away what it led to; a placeholder
// that hides what came into force beside it; a directory in use that was cleared up. Anything else that cannot be loaded may be somebody's work
// which is not finished, and nginx has read what was there before it.
func (h *house) standInAgain(c config.Certificate) (changed bool) {
	name := filepath.Join(h.store.dir.Root().Dir(), liveDir, c.Name)
	if !nginx.LeadsNowhere(name) && !h.untaken.has(c.Name) && (!h.store.standsIn(c.Name) || h.store.hiddenBy(c) == "") {
		return false
	}
	changed, err := h.standIn(c)
	if err != nil {
		h.log.Error("there is nothing for nginx to load", "certificate", c.Name, "error", err)
	}
	return changed
}

// standsIn reports whether this node's live link leads to the placeholder.
func (l *lineages) standsIn(name string) bool {
	target, err := l.dir.Root().Readlink(liveDir + "/" + name)
	return err == nil && target == fmt.Sprintf("../%s/%s/%s", archiveDir, name, nginx.PlaceholderGeneration)
}

// hiddenBy returns the certificate that a placeholder of c would hide: one for the same names, and so on the same servers, that is in force on this
// node with the kind of key that is declared for c. A pair is declared for a certificate that was of the other kind alone, say. "" for none.
func (l *lineages) hiddenBy(c config.Certificate) string {
	for _, other := range l.declared {
		if other.Name == c.Name || !sameNames(other.Names, c.Names) || l.standsIn(other.Name) {
			continue
		}
		leaf, err := nginx.Loads(filepath.Join(l.dir.Root().Dir(), liveDir, other.Name))
		if err != nil || leaf == nil {
			continue
		}
		if _, isRSA := leaf.PublicKey.(*rsa.PublicKey); isRSA == c.Key[0].IsRSA() {
			return other.Name
		}
	}
	return ""
}

// sameNames compares two sets of names. It is asked about every two certificates again and again.
func sameNames(a, b []string) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(name string) bool {
		return !slices.ContainsFunc(b, func(other string) bool { return strings.EqualFold(name, other) })
	})
}

// untaken is what stands at live links that nginx cannot load, and that no placeholder took the place of.
type untaken struct {
	mu     sync.Mutex
	byName map[string]standing // guarded by mu
}

type standing struct {
	nginx.Placed
	failed error // nil: it was left for the sake of placed.Others
	since  time.Time
}

func (u *untaken) note(name string, placed nginx.Placed, failed error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(placed.Others) == 0 && failed == nil {
		delete(u.byName, name)
		return
	}
	if u.byName == nil {
		u.byName = map[string]standing{}
	}
	s, known := u.byName[name]
	if !known {
		s.since = time.Now()
	}
	s.Placed, s.failed = placed, failed
	u.byName[name] = s
}

func (u *untaken) drop(name string) { u.note(name, nginx.Placed{}, nil) }

func (u *untaken) has(name string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	_, has := u.byName[name]
	return has
}

func (u *untaken) any() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.byName) > 0
}

// standingProblems is what stands at live links and cannot be loaded.
func (h *house) standingProblems() (out []control.Problem) {
	h.untaken.mu.Lock()
	defer h.untaken.mu.Unlock()
	for name, s := range h.untaken.byName {
		place := filepath.Join(h.store.dir.Root().Dir(), liveDir, name)
		code, why := control.ChainRefused, "it may be in use as "+strings.Join(s.Others, ", ")
		next := fmt.Sprintf("on %s: move what nobody uses out of %s, or put fullchain.pem and privkey.pem there", h.self.Name, place)
		if s.failed != nil {
			code, why, next = control.WriteFailed, s.failed.Error(), fmt.Sprintf("on %s: ls -la %s; or move it away", h.self.Name, place)
		}
		out = append(out, h.problem(code, s.since,
			fmt.Sprintf("%s/%s holds no pair that nginx can load (%v), and no placeholder takes its place: %s", liveDir, name, s.Broken, why),
			"an nginx that names "+liveDir+"/"+name+"/fullchain.pem does not start before the first certificate is there", next))
	}
	slices.SortFunc(out, func(a, b control.Problem) int { return strings.Compare(a.Text, b.Text) })
	return out
}
