// Package control is the daemon's local socket: what it tells an operator (status, metrics), the few commands it takes
// (reload, verify), and the client that the command line uses. It decides nothing about files, certificates or leases:
// a Daemon does, and this package carries its answers.
package control

import (
	_ "embed" // for the published schema
	"encoding/json"
	"fmt"
	"time"

	"certswarm/internal/fleet"
)

// Schema names the contract that Status follows. Fields are only ever added under this name.
const Schema = "certswarm.status/v1"

//go:embed status.schema.json
var statusSchema string

// StatusSchema returns the JSON Schema (draft 2020-12) of Status.
func StatusSchema() string { return statusSchema }

// Status is everything that one node knows about itself and the fleet, at one moment. Its JSON form is a contract,
// published as status.schema.json.
type Status struct {
	Schema       string            `json:"schema"` // always Schema; written by MarshalJSON
	Node         Node              `json:"node"`
	Cluster      string            `json:"cluster"`
	Lease        Lease             `json:"lease"`
	Directories  List[Directory]   `json:"directories"`
	Peers        List[Peer]        `json:"peers"` // without this node
	Certificates List[Certificate] `json:"certificates"`
	Problems     List[Problem]     `json:"problems"` // of every node that is heard from
}

// MarshalJSON stamps the schema, so that no producer can forget it.
func (s Status) MarshalJSON() ([]byte, error) {
	type plain Status // without this method
	s.Schema = Schema
	return json.Marshal(plain(s))
}

// Node is the node that answers.
type Node struct {
	Name          string       `json:"name"`
	ID            fleet.NodeID `json:"id"`
	Role          fleet.Role   `json:"role"`
	Version       string       `json:"version"`
	UptimeSeconds float64      `json:"uptime_seconds"`
	Serves        bool         `json:"serves"` // an nginx is in this node's care (nginx.enabled)
}

// DirectoryState is where a replicated directory stands on this node.
type DirectoryState string

// The states of a directory.
const (
	InSync  DirectoryState = "in_sync" // it has all that any connected peer has announced
	Behind  DirectoryState = "behind"
	Halted  DirectoryState = "halted" // it receives but originates nothing until a person says resume
	Joining DirectoryState = "joining"
)

// Directory is one replicated directory on this node.
type Directory struct {
	Name        string         `json:"name"`
	Path        string         `json:"path"`
	Files       int            `json:"files"`       // regular files and links
	Fingerprint string         `json:"fingerprint"` // hex; equal on two nodes exactly when they hold the same live entries
	State       DirectoryState `json:"state"`
	Reason      string         `json:"reason"` // why it is not in sync
}

// Peer is another member of the fleet as this node sees it.
type Peer struct {
	Name       string       `json:"name"`
	ID         fleet.NodeID `json:"id"`
	Role       fleet.Role   `json:"role"`
	Connected  bool         `json:"connected"`
	Address    string       `json:"address"`
	RTTSeconds float64      `json:"rtt_seconds"`
	Behind     int          `json:"behind"`     // changes, deletions included, that it has not acknowledged as durably applied
	Missing    List[string] `json:"missing"`    // the paths of at most 20 of them, percent-encoded where not UTF-8
	LastHeard  Time         `json:"last_heard"` // null: never
	Version    string       `json:"version"`
	Serves     bool         `json:"serves"` // an nginx is in its care; false also while it never said so
}

// CertificateState is where a declared certificate stands.
type CertificateState string

// The states of a certificate.
const (
	Placeholder CertificateState = "placeholder" // self-signed: nothing was issued yet
	Issuing     CertificateState = "issuing"     // an order is under way
	Issued      CertificateState = "issued"
	Failed      CertificateState = "failed"   // the last attempt failed; the previous certificate, if any, stays
	External    CertificateState = "external" // another ACME client renews it
)

// Certificate is one declared certificate.
type Certificate struct {
	Name        string           `json:"name"` // under live/
	Names       List[string]     `json:"names"`
	Serial      string           `json:"serial"`    // lower-case hex, no separators, no leading zeros; "" before the first
	NotAfter    Time             `json:"not_after"` // null before the first
	Generation  int              `json:"generation"`
	State       CertificateState `json:"state"`
	NextAttempt Time             `json:"next_attempt"` // null when none is planned
	LastError   string           `json:"last_error"`
	Budget      Budget           `json:"budget"`
	Served      List[Served]     `json:"served"` // every node x listener x key type that is known
	Unused      List[string]     `json:"unused"` // nodes whose nginx has no server that uses it
}

// Budget counts what was spent of acme.budget for a certificate's set of names.
type Budget struct {
	OrdersToday  int `json:"orders_today"`
	OrdersWeek   int `json:"orders_week"`
	FailuresHour int `json:"failures_hour"`
}

// ServedState is what a handshake with a listener showed.
type ServedState string

// The states of a listener.
const (
	Current     ServedState = "current"     // it serves the certificate that is installed
	Stale       ServedState = "stale"       // it serves another one
	Unreachable ServedState = "unreachable" // no handshake
	Unverified  ServedState = "unverified"  // not asked yet
)

// Served is one listener of one node, for one key type.
type Served struct {
	Node     string      `json:"node"`
	Listener string      `json:"listener"` // host:port
	KeyType  string      `json:"key_type"` // ecdsa or rsa
	State    ServedState `json:"state"`
}

// List is a slice whose JSON form is never null.
type List[T any] []T

// MarshalJSON writes [] for nil.
func (l List[T]) MarshalJSON() ([]byte, error) {
	if l == nil {
		return []byte("[]"), nil
	}
	return json.Marshal([]T(l))
}

// Time is a moment whose JSON form is RFC 3339 in UTC, to the second, and null when it is zero.
type Time struct{ time.Time }

// At returns t as a Time. The zero time stays zero, which is null.
func At(t time.Time) Time {
	if t.IsZero() {
		return Time{}
	}
	return Time{t.UTC().Truncate(time.Second)}
}

// MarshalJSON writes null for the zero Time.
func (t Time) MarshalJSON() ([]byte, error) {
	if t.IsZero() {
		return []byte("null"), nil
	}
	return json.Marshal(t.UTC().Format(time.RFC3339))
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (t *Time) UnmarshalJSON(text []byte) error {
	var moment *time.Time
	if err := json.Unmarshal(text, &moment); err != nil {
		return fmt.Errorf("not an RFC 3339 time: %w", err)
	}
	*t = Time{}
	if moment != nil {
		*t = At(*moment)
	}
	return nil
}
