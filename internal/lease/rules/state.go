package rules

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"certswarm/internal/fleet"
)

// Verb is what a committed command does.
type Verb string

// The commands. Only a leader proposes them, and only about itself.
const (
	Acquire Verb = "acquire" // By holds the lease, under the epoch of this very entry
	Renew   Verb = "renew"   // By still holds it
	Release Verb = "release" // By has stopped acting
	Raise   Verb = "raise"   // epochs go on above everything that was seen in the fleet
)

// Command is one entry of the log.
type Command struct {
	Verb   Verb        `json:"verb"`
	By     uint64      `json:"by"`               // Seat.ID
	Ticket uint64      `json:"ticket,omitempty"` // how the proposer knows its own entry again
	Epoch  fleet.Epoch `json:"epoch,omitzero"`   // of a renew or release: the one it is about

	Settled bool `json:"settled,omitempty"` // of a renew or release: By has waited out its predecessors

	Generation uint64 `json:"generation,omitempty"` // of a raise
	Nonce      uint64 `json:"nonce,omitempty"`
}

// Encode returns the bytes that DecodeCommand reads.
func (c Command) Encode() []byte { return mustJSON(c) }

// DecodeCommand reads an entry of the log.
func DecodeCommand(entry []byte) (Command, error) {
	var c Command
	if err := json.Unmarshal(entry, &c); err != nil {
		return Command{}, fmt.Errorf("an entry of the lease's log cannot be read: %w", err)
	}
	return c, nil
}

// State is what the committed log says. It is a value: Apply and Reseat return another one.
type State struct {
	Line       Line
	Generation uint64 // of the epochs: the line's, or what a raise made of it
	Nonce      uint64

	Holder uint64      // Seat.ID; 0: nobody, or released
	Epoch  fleet.Epoch // of the last acquire

	// Settled says that nobody but the holder can have a right that is still good. A release leaves it as it is: whoever
	// follows a holder that gave the lease back while it still waited for its own predecessor, waits too.
	Settled bool

	Seats map[uint64]Seat // of all voters and learners
}

// Found returns the state with which a cluster begins.
func Found(line Line, electorate []Seat) State {
	s := State{Line: line, Generation: line.Generation, Nonce: line.Nonce, Settled: true, Seats: map[uint64]Seat{}}
	for _, seat := range electorate {
		s.Seats[seat.ID()] = seat
	}
	return s
}

// Recover returns the state with which one seat goes on alone under a new line. Whoever held the lease before may still act.
func (s State) Recover(line Line, survivor Seat) State {
	s.Settled = s.Settled && (s.Holder == 0 || s.Holder == survivor.ID())
	s.Line, s.Generation, s.Nonce = line, line.Generation, line.Nonce
	s.Seats = map[uint64]Seat{survivor.ID(): survivor}
	return s
}

// Apply returns what the command that was committed at (term, index) makes of s. A command that no longer fits, because somebody
// else acquired in between, changes nothing.
func (s State) Apply(term, index uint64, c Command) State {
	mine := s.Holder != 0 && s.Holder == c.By
	switch c.Verb {
	case Acquire:
		s.Settled = s.Holder == 0 && s.Settled || mine && s.Settled
		s.Holder = c.By
		s.Epoch = fleet.Epoch{Generation: s.Generation, Nonce: s.Nonce, Term: term, Index: index}
	case Renew:
		if mine && c.Epoch == s.Epoch {
			s.Settled = s.Settled || c.Settled
		}
	case Release:
		if mine && c.Epoch == s.Epoch {
			s.Holder, s.Settled = 0, s.Settled || c.Settled
		}
	case Raise:
		if c.Generation > s.Generation {
			s.Generation, s.Nonce = c.Generation, c.Nonce
		}
	}
	return s
}

// Reseat returns s after the voters changed: with the seats that were added, and without those that are not sitting any more.
func (s State) Reseat(added []Seat, sitting []uint64) State {
	seats := map[uint64]Seat{}
	for _, seat := range slices.AppendSeq(slices.Clone(added), maps.Values(s.Seats)) {
		if slices.Contains(sitting, seat.ID()) {
			seats[seat.ID()] = seat
		}
	}
	s.Seats = seats
	return s
}

// Encode returns the bytes that DecodeState reads.
func (s State) Encode() []byte { return mustJSON(s) }

// DecodeState reads a snapshot.
func DecodeState(snapshot []byte) (State, error) {
	var s State
	if err := json.Unmarshal(snapshot, &s); err != nil {
		return State{}, fmt.Errorf("a snapshot of the lease cannot be read: %w", err)
	}
	return s, nil
}

// mustJSON encodes what this package itself made.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("rules: %T has no JSON: %v", v, err))
	}
	return b
}
