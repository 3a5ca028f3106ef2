package agent

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"certswarm/acmeclient"
	"certswarm/internal/agent/config"
	"certswarm/internal/control"
	"certswarm/internal/fleet"
	"certswarm/nginx"
	"certswarm/syncer"
	"certswarm/syncer/index"
)

// callRollBack asks the holder of the lease to roll a certificate back: rollBack -> control.RolledBack.
const callRollBack = "rollback"

type rollBack struct {
	Name       string `json:"name"`
	Generation int    `json:"generation"` // 0: the one before that in force
}

// generationFiles is what a generation is made of; without one of them it is not whole.
var generationFiles = []string{"privkey.pem", "fullchain.pem", "cert.pem", "chain.pem"}

// RollBack implements control.Daemon.
func (a *Agent) RollBack(ctx context.Context, name string, generation int) (done control.RolledBack, err error) {
	err = a.inHouse(ctx, func(h *house) (err error) {
		done, err = h.rollBack(ctx, rollBack{name, generation})
		return err
	})
	return done, err
}

// rollBack has whoever holds the lease do it: a wish is beaten only by one that was written under the same epoch or a later one.
func (h *house) rollBack(ctx context.Context, r rollBack) (control.RolledBack, error) {
	if _, err := h.declared(r.Name); err != nil {
		return control.RolledBack{}, err
	}
	view := h.elector.View()
	switch {
	case h.self.Role != fleet.Issuer:
		return control.RolledBack{}, fmt.Errorf("%s only receives: certificates are the issuers' business; on one of them: %s", h.self.Name, h.issuers())
	case view.HeldHere:
		return h.rollBackHere(r, view.Epoch)
	case view.Holder.IsZero():
		return control.RolledBack{}, errors.New("nobody holds the lease, under which it has to be done: certswarm lease")
	}
	var done control.RolledBack
	if err := h.ask(ctx, view.Holder, callRollBack, r, &done); err != nil {
		return control.RolledBack{}, fmt.Errorf("%s holds the lease and did not roll back: %w", h.name(view.Holder), err)
	}
	return done, nil
}

func (h *house) issuers() string {
	var names []string
	for _, m := range h.roster.Load().Issuers() {
		names = append(names, m.Name)
	}
	return orNobody(names)
}

// answerRollBack is rollBack for another issuer. A member has no say in what the fleet serves.
func (h *house) answerRollBack(_ context.Context, from fleet.NodeID, body []byte) ([]byte, error) {
	var r rollBack
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, err
	}
	view := h.elector.View()
	switch {
	case !h.isIssuer(from):
		return nil, fmt.Errorf("%s is not an issuer", h.name(from))
	case h.store == nil || !view.HeldHere:
		return nil, errors.New("this node does not hold the lease any more")
	}
	done, err := h.rollBackHere(r, view.Epoch)
	if err != nil {
		return nil, err
	}
	return json.Marshal(done)
}

// rollBackHere publishes the wish. Each node follows it as it follows any other: when its nginx has nothing against it.
func (h *house) rollBackHere(r rollBack, epoch fleet.Epoch) (control.RolledBack, error) {
	c, err := h.declared(r.Name)
	if err != nil {
		return control.RolledBack{}, err
	}
	wished := h.store.wished(r.Name)
	revoked := func(leaf *x509.Certificate) (bool, error) { return h.acme.Revoked(r.Name, leaf) }
	generation, err := h.store.earlier(c, r.Generation, time.Now(), revoked)
	if err != nil {
		return control.RolledBack{}, err
	}
	leaf, err := h.store.usable(c, generation, time.Now(), revoked)
	if err != nil {
		return control.RolledBack{}, fmt.Errorf("generation %d of %s is not put in force: %w; %s", generation, r.Name, err, h.store.inventory(r.Name, time.Now(), revoked))
	}
	done := control.RolledBack{
		Name: r.Name, Generation: generation, Previous: wished,
		Serial: leaf.SerialNumber.Text(16), NotAfter: control.At(leaf.NotAfter), Issuing: h.issuing(r.Name),
	}
	if generation == wished {
		return done, nil
	}
	if _, err := h.store.wish(epoch, r.Name, generation); err != nil {
		return control.RolledBack{}, err
	}
	h.log.Info("a certificate is rolled back", "certificate", r.Name, "generation", generation, "previous", wished, "serial", done.Serial)
	h.filesChanged([]index.Path{livePath(r.Name)})
	return done, nil
}

// reconsider has the plan of a certificate made anew when the fleet wishes for another generation than at the last look, whoever changed that
// on whichever node: what was planned is of the one that was in force.
func (h *house) reconsider(name string) {
	var wish syncer.Receipt
	if e := h.store.dir.Lookup(livePath(name)); e != nil {
		wish = syncer.ReceiptFor(e)
	}
	if h.pursued == nil {
		h.pursued = map[string]syncer.Receipt{}
	}
	if before := h.pursued[name]; before != wish && h.acme != nil {
		h.acme.Reconsider(name)
	}
	h.pursued[name] = wish
}

// revocations tells whether the fleet had a certificate revoked. It is asked only about what could be put in force otherwise.
type revocations func(leaf *x509.Certificate) (bool, error)

// issuing reports whether an issuance is under way, which will end in another wish.
func (h *house) issuing(name string) bool {
	return h.obtainingHere()[name].State == acmeclient.StateIssuing
}

// wish wants a generation in force that the fleet has already.
func (l *lineages) wish(epoch fleet.Epoch, name string, generation int) (syncer.Receipt, error) {
	return l.dir.Publish(epoch, syncer.Write{Path: livePath(name), Link: generationLink(name, generation)})
}

// earlier returns the generation that is meant: the one asked for if it is there, or with 0 the latest one before that in force.
func (l *lineages) earlier(c config.Certificate, asked int, now time.Time, revoked revocations) (int, error) {
	there, wished := l.generations(c.Name), l.wished(c.Name)
	switch {
	case wished == 0:
		return 0, fmt.Errorf("nothing was issued for %s yet: certswarm certs", c.Name)
	case asked != 0 && !slices.Contains(there, asked):
		return 0, fmt.Errorf("there is no generation %d of %s; %s", asked, c.Name, l.inventory(c.Name, now, revoked))
	case asked != 0:
		return asked, nil
	}
	for _, n := range slices.Backward(there) {
		if n < wished {
			return n, nil
		}
	}
	return 0, fmt.Errorf("there is no generation of %s before %d, which is in force; %s", c.Name, wished, l.inventory(c.Name, now, revoked))
}

// usable returns the leaf of a generation if nginx can be handed it on every node: all of its files are here and known to the fleet, and here
// nginx.CheckPair, which judges it on each of them, has nothing against it. A revoked one is refused by clients, as an expired one is; that the
// next certificate is due at once then is no help where the CA gives none.
func (l *lineages) usable(c config.Certificate, generation int, now time.Time, revoked revocations) (*x509.Certificate, error) {
	content := map[string][]byte{}
	var lacking []string
	for _, file := range generationFiles {
		p := archivePath(c.Name, generation, file)
		text, err := l.dir.ReadFile(p, maxPEM)
		if err != nil || l.dir.Lookup(p) == nil {
			lacking = append(lacking, file)
		}
		content[file] = text
	}
	if len(lacking) > 0 {
		return nil, fmt.Errorf("it is not whole, it lacks %s", strings.Join(lacking, ", "))
	}
	leaf, err := nginx.CheckPair(content["fullchain.pem"], content["privkey.pem"], c.Names, now)
	if err != nil {
		return nil, err
	}
	switch is, err := revoked(leaf); {
	case err != nil:
		return nil, fmt.Errorf("it cannot be told whether the certificate was revoked: %w", err)
	case is:
		return nil, errors.New("the certificate was revoked")
	}
	return leaf, nil
}

// inventory says in one line which generations there are.
func (l *lineages) inventory(name string, now time.Time, revoked revocations) string {
	var all []string
	for _, n := range l.generations(name) {
		text := fmt.Sprintf("%d (", n)
		if n == l.wished(name) {
			text += "in force, "
		}
		switch chain, err := l.chain(name, n); {
		case err != nil:
			text += "its certificate cannot be read)"
		case isRevoked(chain[0], revoked):
			text += "revoked)"
		case now.Before(chain[0].NotAfter):
			text += fmt.Sprintf("expires %s)", chain[0].NotAfter.UTC().Format(time.RFC3339))
		default:
			text += fmt.Sprintf("expired %s)", chain[0].NotAfter.UTC().Format(time.RFC3339))
		}
		all = append(all, text)
	}
	if len(all) == 0 {
		return "there are no generations"
	}
	return "there is " + strings.Join(all, ", ")
}

// isRevoked is for telling: what cannot be known is not said.
func isRevoked(leaf *x509.Certificate, revoked revocations) bool {
	is, err := revoked(leaf)
	return is && err == nil
}

// heldFor is held with what renewal has to know: that an operator put an earlier generation back in force. A wish below the latest generation
// says so; it is in the index like any other, so that every later holder of the lease knows it too.
func (l *lineages) heldFor(name string) (*acmeclient.Held, error) {
	held, err := l.held(name)
	if held == nil || err != nil {
		return held, err
	}
	if there := l.generations(name); len(there) > 0 && there[len(there)-1] > held.Generation {
		if chain, err := l.chain(name, there[len(there)-1]); err == nil {
			held.Newer = chain[0]
		}
	}
	return held, nil
}

// refused reports whether something is still said against the last generation that was tried of a certificate. Where the fleet wants the one
// that is installed, it was rolled back, and trying what is installed ends the problem.
func (f *findings) refused(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.problems {
		if p.Name == name && (p.Code == nginx.TestFailed || p.Code == nginx.ChainRefused || p.Code == nginx.WriteFailed) {
			return true
		}
	}
	return false
}
