package acmeclient

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"
)

// How often the CA is asked when to renew (RFC 9773 4.3).
const (
	renewalPollMin   = time.Minute
	renewalPollMax   = day
	renewalPollRetry = 6 * time.Hour // after an error, or no answer
	renewalTimeout   = 10 * time.Second
)

// renewal is what the CA said about the renewal of one certificate: the one with this CertID and no other.
type renewal struct {
	CertID  string    `json:"cert_id"`
	Start   time.Time `json:"start"` // of the window; zero: there is none
	End     time.Time `json:"end"`
	Chosen  time.Time `json:"chosen"` // in it, once
	Explain string    `json:"explain,omitempty"`
	Ask     time.Time `json:"ask"` // again, not before
}

// windows is the form in which NextDue takes it.
func (r *renewal) windows() map[string]Window {
	if r == nil {
		return nil
	}
	return map[string]Window{r.CertID: {Start: r.Start, End: r.End, Chosen: r.Chosen}}
}

// suggestion is an answer of the CA (RFC 9773 4.2).
type suggestion struct {
	Start, End time.Time
	Explain    string
	Again      time.Duration // its Retry-After; 0: it did not say
}

// heard returns what is known of the certificate id after the CA was asked at now. said is nil for what is no answer: then
// what was known stays. The instant is chosen once for each window; random is in [0, 1).
func (r *renewal) heard(id string, said *suggestion, now time.Time, random float64) *renewal {
	next := &renewal{CertID: id, Ask: now.Add(renewalPollRetry).UTC()}
	if r != nil && r.CertID == id {
		next.Start, next.End, next.Chosen, next.Explain = r.Start, r.End, r.Chosen, r.Explain
	}
	if said == nil || !said.End.After(said.Start) {
		return next
	}
	if !next.Start.Equal(said.Start) || !next.End.Equal(said.End) {
		next.Start, next.End = said.Start.UTC(), said.End.UTC()
		next.Chosen = next.Start.Add(time.Duration(random * float64(next.End.Sub(next.Start))))
	}
	next.Explain = said.Explain
	if said.Again > 0 {
		next.Ask = now.Add(min(max(said.Again, renewalPollMin), renewalPollMax)).UTC()
	}
	return next
}

// asksRenewal returns when the CA must be asked about the certificate in force, zero for never: it is not this CA's, or it
// has been replaced, revoked, or has expired.
func (w *worker) asksRenewal(j *journal, held *Held, now time.Time) time.Time {
	if w.client.cfg.NoARI || held == nil || held.Placeholder || held.Revoked || held.Newer != nil || !now.Before(held.Leaf.NotAfter) {
		return time.Time{}
	}
	if from := j.issued(held); from == nil || from.Directory != w.client.cfg.Directory {
		return time.Time{} // one CA is not told of another's certificates
	}
	if j.Renewal != nil && j.Renewal.CertID == CertID(held.Leaf) {
		return j.Renewal.Ask
	}
	return now
}

// askRenewal asks the CA when to renew the certificate in force, and journals what it says.
func (w *worker) askRenewal(ctx context.Context, s *session, j *journal, held *Held) {
	id := CertID(held.Leaf)
	bounded, cancel := context.WithTimeout(ctx, renewalTimeout)
	said, err := s.renewalInfo(bounded, id)
	cancel()
	if ctx.Err() != nil {
		return
	}
	now := time.Now()
	was := j.Renewal
	j.Renewal = was.heard(id, said, now, rand.Float64())
	switch {
	case err != nil:
		w.client.cfg.Log.Warn("the CA does not say when to renew", "name", w.cert.Name, "err", err, "again", j.Renewal.Ask)
	case said != nil && (was == nil || !was.Chosen.Equal(j.Renewal.Chosen)):
		text := fmt.Sprintf("the CA suggests a renewal between %s and %s; chosen is %s", j.Renewal.Start.Format(time.RFC3339),
			j.Renewal.End.Format(time.RFC3339), j.Renewal.Chosen.Format(time.RFC3339))
		if said.Explain != "" {
			text += fmt.Sprintf("; see %q", said.Explain)
		}
		w.client.cfg.Observe(Event{Time: now, Name: w.cert.Name, Node: w.client.cfg.Node, Text: text})
	}
	if err := w.save(ctx, s, j); err != nil && ctx.Err() == nil {
		w.client.cfg.Log.Warn("journal", "name", w.cert.Name, "err", err)
	}
}

// renewalInfo asks the CA about one certificate (RFC 9773 4.1). nil without an error: this CA has no such information.
func (s *session) renewalInfo(ctx context.Context, id string) (*suggestion, error) {
	base, err := s.renewalURL(ctx)
	if err != nil || base == "" {
		return nil, err
	}
	header, body, err := s.get(ctx, strings.TrimSuffix(base, "/")+"/"+id)
	if err != nil {
		return nil, err
	}
	var told struct {
		SuggestedWindow struct{ Start, End time.Time } `json:"suggestedWindow"`
		ExplanationURL  string                         `json:"explanationURL"`
	}
	if err := json.Unmarshal(body, &told); err != nil {
		return nil, fmt.Errorf("renewal information: %w", err)
	}
	window := told.SuggestedWindow
	if !window.End.After(window.Start) {
		return nil, fmt.Errorf("renewal information: the window ends (%s) before it begins (%s)", window.End, window.Start)
	}
	if window.Start.Year() < 2000 || window.End.Year() > 2999 { // no certificate is meant, and not every time can be journalled
		return nil, fmt.Errorf("renewal information: no window lies from %s to %s", window.Start, window.End)
	}
	return &suggestion{window.Start, window.End, told.ExplanationURL, retryAfter(header, time.Now())}, nil
}

// renewalURL is where the CA keeps its renewal information.
type renewalURL struct {
	mu    sync.Mutex
	url   string    // "": it has none; guarded by mu
	asked time.Time // guarded by mu
}

// renewalURL returns where the CA keeps its renewal information, "" if it has none.
func (s *session) renewalURL(ctx context.Context) (string, error) {
	known := &s.client.renewals
	known.mu.Lock()
	defer known.mu.Unlock()
	if !known.asked.IsZero() && time.Since(known.asked) < connectionLife {
		return known.url, nil
	}
	_, body, err := s.get(ctx, s.directory)
	if err != nil {
		return "", err
	}
	var directory struct {
		RenewalInfo string `json:"renewalInfo"`
	}
	if err := json.Unmarshal(body, &directory); err != nil {
		return "", fmt.Errorf("the CA's directory: %w", err)
	}
	known.url, known.asked = directory.RenewalInfo, time.Now()
	return known.url, nil
}

// get fetches what anybody may read at the CA.
func (s *session) get(ctx context.Context, url string) (http.Header, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, nil, err
	}
	status, header, body, err := fetch(s.client.http, request, s.client.cfg.UserAgent)
	if err != nil {
		return nil, nil, err
	}
	if status != http.StatusOK {
		return nil, nil, problemOf(status, header, body)
	}
	return header, body, nil
}

// replaces returns the certID that an order must name as replaced, "" if none: the CA must know the certificate, from the
// same account, and know the word.
func (i *issuance) replaces(ctx context.Context) (string, error) {
	a := i.j.Attempt
	if a.Rehearsal || a.Alone || i.client.cfg.NoARI {
		return "", nil
	}
	held, err := i.w.held()
	if err != nil || held == nil || held.Placeholder || held.Newer != nil || !time.Now().Before(held.Leaf.NotAfter) {
		return "", ofFleet(err, "reading the certificate in force")
	}
	from := i.j.issued(held)
	if from == nil || from.Directory != i.directory || from.Account != string(i.acme.KID) {
		return "", nil
	}
	base, err := i.renewalURL(ctx)
	if err != nil || base == "" {
		return "", err
	}
	return CertID(held.Leaf), nil
}
