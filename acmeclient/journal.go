package acmeclient

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"certswarm/internal/fleet"
)

// Step is how far an attempt has come. The journal says so before the next step is begun.
type Step string

// The steps, in their order.
const (
	StepIntent    Step = "intent"    // names, key and CSR are fixed
	StepOrdered   Step = "ordered"   // the CA accepted the order
	StepPresented Step = "presented" // the tokens are known and go out to the front-ends
	StepServed    Step = "served"    // every live front-end serves them
	StepAccepted  Step = "accepted"  // the CA was told to validate
	StepReady     Step = "ready"     // the CA has validated
	StepFinalized Step = "finalized" // the CSR is on its way to the CA
	StepValid     Step = "valid"     // the certificate is here
	StepChecked   Step = "checked"   // nothing speaks against it
	StepInstalled Step = "installed" // it is in force
	StepVerified  Step = "verified"  // the front-ends were asked whether they serve it
)

var stepOrder = []Step{StepIntent, StepOrdered, StepPresented, StepServed, StepAccepted, StepReady, StepFinalized,
	StepValid, StepChecked, StepInstalled, StepVerified}

// reached reports whether s is at or past other.
func (s Step) reached(other Step) bool {
	return slices.Index(stepOrder, s) >= slices.Index(stepOrder, other)
}

// journal is the replicated memory of one declared certificate: what is under way and what was tried. It is one JSON
// file, written as a whole. Times are UTC.
type journal struct {
	Version     int         `json:"version"`
	Name        string      `json:"name"`
	Node        string      `json:"node"`                // that wrote this version
	Epoch       fleet.Epoch `json:"epoch"`               // under which it did
	Directory   string      `json:"directory,omitempty"` // of the CA at which all this is; "" in journals of earlier versions
	Declared    string      `json:"declared"`            // what was wanted
	Attempt     *attempt    `json:"attempt,omitempty"`
	Cleanup     []Token     `json:"cleanup,omitempty"` // of attempts that are over: to be withdrawn
	Failures    int         `json:"failures"`          // in a row
	NextAttempt time.Time   `json:"next_attempt"`      // not before; zero: at once
	RetryAfter  time.Time   `json:"retry_after"`       // the CA's own not-before
	LastError   string      `json:"last_error,omitempty"`
	LastCode    Code        `json:"last_code,omitempty"`
	Orders      []mark      `json:"orders"`  // accepted by the CA in the last 7 days
	Invalid     []mark      `json:"invalid"` // validations that failed in the last hour
	History     []Outcome   `json:"history"` // oldest first, at most historyLength
	Issued      []origin    `json:"issued"`  // the last leaves issued from this journal
	Renewal     *renewal    `json:"renewal,omitempty"`

	Elsewhere map[string]standing `json:"elsewhere,omitempty"` // by directory
}

// mark is one event that counts against the budget.
type mark struct {
	At  time.Time `json:"at"`
	Set string    `json:"set"`
}

// standing is what stands against this fleet at a CA that is not the journal's.
type standing struct {
	RetryAfter time.Time `json:"retry_after"`
	Orders     []mark    `json:"orders"`
	Invalid    []mark    `json:"invalid"`
}

// origin is where a leaf came from.
type origin struct {
	Leaf      string `json:"leaf"` // SHA-256 of it
	Directory string `json:"directory"`
	Account   string `json:"account"`
}

// attempt is one issuance under way. One key, one CSR.
type attempt struct {
	ID         string            `json:"id"`
	Reason     string            `json:"reason"`
	Started    time.Time         `json:"started"`
	Node       string            `json:"node"`
	Step       Step              `json:"step"`
	Names      []string          `json:"names"`
	Profile    string            `json:"profile,omitempty"`
	KeyType    KeyType           `json:"key_type"`
	Key        []byte            `json:"key"` // PEM
	CSR        []byte            `json:"csr"` // DER
	Orders     int               `json:"orders"`
	Order      *order            `json:"order,omitempty"`
	Replaces   string            `json:"replaces,omitempty"`  // certID that the order named
	Alone      bool              `json:"alone,omitempty"`     // orders name none: the CA did not like it
	Contested  bool              `json:"contested,omitempty"` // somebody else has ordered a replacement of the same
	Account    string            `json:"account,omitempty"`   // URL; of the order
	Fetches    int               `json:"fetches,omitempty"`   // of certificates that were not what was ordered
	CertURL    string            `json:"certificate_url,omitempty"`
	Chain      []byte            `json:"chain,omitempty"` // PEM
	Force      bool              `json:"force,omitempty"`
	Rehearsal  bool              `json:"rehearsal,omitempty"` // ends with the checks
	Unleased   bool              `json:"unleased,omitempty"`  // made, or continued, without the lease
	Behind     []string          `json:"left_behind,omitempty"`
	Generation int               `json:"generation,omitempty"`
	Verified   map[string]string `json:"verified,omitempty"`
}

// order is what the journal knows of an order at the CA.
type order struct {
	URL         string      `json:"url"`
	FinalizeURL string      `json:"finalize_url"`
	Placed      time.Time   `json:"placed"`
	Expires     time.Time   `json:"expires"` // in the CA's words, within reason; zero in journals of earlier versions
	Waiting     time.Time   `json:"waiting"` // since when only the CA can bring it further; zero: it is not waited for
	Challenges  []challenge `json:"challenges,omitempty"`
}

// challenge is one http-01 challenge that must be met.
type challenge struct {
	Authorization string `json:"authorization"` // URL
	URL           string `json:"url"`
	Token         Token  `json:"token"`
}

// Outcome is one attempt as its journal tells it.
type Outcome struct {
	Attempt   string            `json:"attempt"` // its id
	Reason    string            `json:"reason"`
	Rehearsal bool              `json:"rehearsal,omitempty"` // at the staging directory; nothing came into force
	Unleased  bool              `json:"unleased,omitempty"`  // made, or continued, without the lease; Epoch is then the last one known
	Node      string            `json:"node"`                // that began it
	By        string            `json:"by,omitempty"`        // that ended it, or worked on it last
	Epoch     fleet.Epoch       `json:"epoch"`               // under which it did
	Started   time.Time         `json:"started"`
	Ended     time.Time         `json:"ended"` // zero: it is under way
	Step      Step              `json:"step"`  // the last one that was taken
	Orders    int               `json:"orders,omitempty"`
	Error     string            `json:"error,omitempty"` // "" for one that succeeded
	Code      Code              `json:"code,omitempty"`
	Serial    string            `json:"serial,omitempty"`   // of what the CA issued: lower-case hex; "" if it did not
	NotAfter  time.Time         `json:"not_after"`          // of the same
	Replaces  string            `json:"replaces,omitempty"` // certID of the certificate that the CA was told it replaces
	Behind    []string          `json:"left_behind,omitempty"`
	Served    map[string]string `json:"served,omitempty"`
	Revoked   time.Time         `json:"-"` // by this fleet; zero: it was not
}

const (
	journalVersion = 1
	historyLength  = 20
	issuedKept     = 4

	// maxOrders is how many orders one attempt may place: the first, and two more when orders expire while a front-end
	// does not serve the token.
	maxOrders = 3
)

func journalPath(name string) string { return "journal/" + name + ".json" }

// rehearsalPath is the journal of the rehearsals: apart, because they neither wait for the other attempts nor count as one.
func rehearsalPath(name string) string { return "rehearsal/" + name + ".json" }

// errDamaged says that a journal would be no better if it were read again.
var errDamaged = errors.New("it is begun anew")

// decodeJournal reads a journal. One that does not exist is empty. One that cannot be read, or is damaged, is an error beside an empty
// journal: a certificate must not expire because of a file.
func decodeJournal(name string, content []byte, err error) (*journal, error) {
	empty := &journal{Version: journalVersion, Name: name}
	if errors.Is(err, fs.ErrNotExist) {
		return empty, nil
	}
	if err != nil {
		return empty, fmt.Errorf("the journal of %s cannot be read: %w", name, err)
	}
	j := new(journal)
	if err := json.Unmarshal(content, j); err != nil {
		return empty, fmt.Errorf("the journal of %s is damaged (%w); %w", name, err, errDamaged)
	}
	if j.Version != journalVersion || j.Name != name {
		return empty, fmt.Errorf("the journal of %s (version %d, for %q) is not one this version can continue; %w", name, j.Version, j.Name, errDamaged)
	}
	return j, nil
}

// declare says what is wanted now, and of the CA at which directory. If that is something else than before, the attempt under way is
// pointless, and the wait after a failure no longer applies; what counts against the budget, and what the CA asked for, stays with that CA.
// ended is true if an attempt was under way that is not any more.
func (j *journal) declare(wanted, directory string, now time.Time) (ended bool) {
	was := j.Attempt
	if j.Directory == "" {
		j.Directory = directory
	}
	if j.Directory != directory {
		j.turn(directory, now)
	}
	if j.Declared != wanted {
		j.close(now, &failure{err: errors.New("the declaration of the certificate changed")})
		j.Declared = wanted
		j.forgive()
	}
	return was != nil && j.Attempt == nil
}

// turn leaves one CA for another. An order, an account, a wait or an advice of the first means nothing to the second: to go on would
// be to ask the one in the name of the other. What the first counts is kept for it: turning to and fro is no way around the budget.
func (j *journal) turn(directory string, now time.Time) {
	var left *failure
	if a := j.Attempt; a != nil && !a.Step.reached(StepInstalled) { // what is in force needs no CA any more
		left = &failure{err: fmt.Errorf("the CA's directory is %s now: this attempt, made at %s, is given up, and the next one orders there", directory, j.Directory)}
	}
	j.close(now, left)
	if j.Elsewhere == nil {
		j.Elsewhere = make(map[string]standing)
	}
	j.Elsewhere[j.Directory] = standing{j.RetryAfter, j.Orders, j.Invalid}
	here := j.Elsewhere[directory]
	delete(j.Elsewhere, directory)
	j.Directory, j.RetryAfter, j.Orders, j.Invalid, j.Renewal = directory, here.RetryAfter, here.Orders, here.Invalid, nil
	j.forgive()
}

// forgive forgets what failed, and the wait that it led to. History and budget do not, and what the CA asked for stays.
func (j *journal) forgive() {
	j.Failures, j.NextAttempt, j.LastError, j.LastCode = 0, time.Time{}, "", ""
}

// prune drops what no longer counts.
func (j *journal) prune(now time.Time) {
	j.Orders, j.Invalid = younger(j.Orders, now, week), younger(j.Invalid, now, time.Hour)
	for directory, s := range j.Elsewhere {
		s.Orders, s.Invalid = younger(s.Orders, now, week), younger(s.Invalid, now, time.Hour)
		j.Elsewhere[directory] = s
		if len(s.Orders) == 0 && len(s.Invalid) == 0 && !s.RetryAfter.After(now) {
			delete(j.Elsewhere, directory)
		}
	}
	if n := len(j.History) - historyLength; n > 0 {
		j.History = slices.Delete(j.History, 0, n)
	}
	if n := len(j.Issued) - issuedKept; n > 0 {
		j.Issued = slices.Delete(j.Issued, 0, n)
	}
}

// younger returns the marks that are younger than span.
func younger(marks []mark, now time.Time, span time.Duration) []mark {
	return slices.DeleteFunc(marks, func(m mark) bool { return now.Sub(m.At) >= span })
}

// close ends the attempt under way: its key is forgotten, its tokens wait for being withdrawn.
func (j *journal) close(now time.Time, failed *failure) {
	if j.Attempt == nil {
		return
	}
	o := j.Attempt.outcome()
	o.Ended = now
	if failed != nil {
		o.Error, o.Code = failed.Error(), failed.code
	}
	j.Cleanup = append(j.Cleanup, j.Attempt.tokens()...)
	j.History = append(j.History, o)
	j.Attempt = nil
}

// outcome is what the attempt came to so far.
func (a *attempt) outcome() Outcome {
	o := Outcome{Attempt: a.ID, Reason: a.Reason, Rehearsal: a.Rehearsal, Unleased: a.Unleased, Node: a.Node, Started: a.Started, Step: a.Step,
		Orders: a.Orders, Replaces: a.Replaces, Behind: a.Behind, Served: a.Verified}
	if chain, err := decodeChain(a.Chain); err == nil {
		o.Serial, o.NotAfter = chain[0].SerialNumber.Text(16), chain[0].NotAfter.UTC()
	}
	return o
}

// promising reports whether something may come of an attempt although the CA refused what it was asked for: there is an order that has
// not come to its end, or none was accepted because somebody else has one, who must be given time.
func (a *attempt) promising(now time.Time) bool {
	switch {
	case a == nil:
		return false
	case a.Order != nil:
		return now.Before(orderEnd(a.Order.Expires, a.Order.Placed))
	}
	return a.Contested && !a.Alone
}

// tokens returns the token files of the attempt's current order.
func (a *attempt) tokens() []Token {
	if a.Order == nil {
		return nil
	}
	var tokens []Token
	for _, c := range a.Order.Challenges {
		tokens = append(tokens, c.Token)
	}
	return tokens
}
