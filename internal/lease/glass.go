package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"certswarm/internal/durable"
	"certswarm/internal/fleet"
	"certswarm/internal/lease/rules"
)

// Glass is what must be broken to act without the lease. It writes down what is ordered before it is ordered, on this node's
// own disk; it has no part in the vote and writes nothing that the vote reads.
type Glass struct {
	state *durable.Root
	mu    sync.Mutex // one writer of the file
}

// NewGlass returns the glass of a node; state is its state directory.
func NewGlass(state *durable.Root) *Glass { return &Glass{state: state} }

const (
	glassFile = "break-glass.json"
	glassMax  = 4 << 20               // bytes
	glassKeep = 8 * 24 * time.Hour    // what is older counts for no budget
	glassFor  = 10 * 60 * time.Second // for how long a broken glass lets one act: an order and its validation
)

// shards is the file: by names, what was done without the lease.
type shards map[string]shard

type shard struct {
	Orders   []time.Time `json:"orders"`
	Failures []time.Time `json:"failures"`
}

// Judge decides a case, whose Orders and Failures it fills in from the disk.
func (g *Glass) Judge(c rules.Case, now time.Time) (rules.Verdict, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	kept, err := g.read()
	if err != nil {
		return rules.Verdict{}, err
	}
	s := kept[rules.Key(c.Names)]
	c.Orders, c.Failures = s.Orders, s.Failures
	return rules.JudgeGlass(c, now), nil
}

// Break returns the right to order for the case's names, which spends nothing: Ordered does. The Grant's epoch is the last that is
// known: what is written under it loses to whoever holds the lease later. It ends after ten minutes, or with ctx, which the caller ends
// when the lease is held again by anybody.
//
// The error says that the case may not be ordered: Break judges it again.
func (g *Glass) Break(ctx context.Context, c rules.Case, last fleet.Epoch, now time.Time) (Grant, context.CancelFunc, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	kept, err := g.read()
	if err != nil {
		return Grant{}, nil, err
	}
	s := kept[rules.Key(c.Names)]
	c.Orders, c.Failures = s.Orders, s.Failures
	if v := rules.JudgeGlass(c, now); v.Answer != rules.Order {
		return Grant{}, nil, fmt.Errorf("%s cannot be ordered without the lease: %s", strings.Join(c.Names, ", "), v.Why)
	}
	granted, end := context.WithTimeout(ctx, glassFor)
	return Grant{ctx: granted, epoch: last}, end, nil
}

// Ordered writes down that an order behind the glass follows. After an error it must not be made.
//
// COMMIT: a crash after this has spent an order that was not made; one before it has made none.
func (g *Glass) Ordered(names []string, now time.Time) error {
	return g.note(names, now, func(s *shard) { s.Orders = append(s.Orders, now) })
}

// Failed writes down that a validation failed of an order made behind the glass.
func (g *Glass) Failed(names []string, now time.Time) error {
	return g.note(names, now, func(s *shard) { s.Failures = append(s.Failures, now) })
}

func (g *Glass) note(names []string, now time.Time, change func(*shard)) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	kept, err := g.read()
	if err != nil {
		return err
	}
	s := kept[rules.Key(names)]
	change(&s)
	kept[rules.Key(names)] = s
	return g.write(kept, now)
}

// read returns what is written down. What cannot be read counts as used up: the caller gets the error and orders nothing.
func (g *Glass) read() (shards, error) {
	text, err := g.state.ReadFile(glassFile, glassMax)
	if errors.Is(err, fs.ErrNotExist) {
		return shards{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("what was ordered without the lease cannot be read: %w", err)
	}
	kept := shards{}
	if err := json.Unmarshal(text, &kept); err != nil {
		return nil, fmt.Errorf("%s in the state directory is damaged (%w); remove it when no order was made without the lease in the last 7 days", glassFile, err)
	}
	return kept, nil
}

func (g *Glass) write(kept shards, now time.Time) error {
	for key, s := range kept {
		old := func(at time.Time) bool { return now.Sub(at) > glassKeep }
		s.Orders, s.Failures = slices.DeleteFunc(s.Orders, old), slices.DeleteFunc(s.Failures, old)
		if kept[key] = s; len(s.Orders)+len(s.Failures) == 0 {
			delete(kept, key)
		}
	}
	if err := g.state.WriteFile(glassFile, append(mustJSON(kept), '\n'), 0o600); err != nil {
		return fmt.Errorf("an order without the lease cannot be written down, so it is not made: %w", err)
	}
	return nil
}
