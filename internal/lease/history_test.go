package lease_test

import (
	"errors"
	"fmt"
	"sync"

	"certswarm/internal/fleet"

	"github.com/anishathalye/porcupine"
)

// history is everything that was done under the lease, in an order that porcupine can judge.
type history struct {
	mu     sync.Mutex
	clock  int64
	ops    []porcupine.Operation
	latest fleet.Epoch // acted or acquired under
	by     map[fleet.Epoch]int
	count  int
}

// deed is one operation: the lease was acquired, or a step taken under it.
type deed struct {
	acquire bool
	node    int
	epoch   fleet.Epoch
}

func (h *history) tick() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	return h.clock
}

func (h *history) record(called int64, d deed) {
	h.clock++
	h.ops = append(h.ops, porcupine.Operation{ClientId: d.node, Input: d, Call: called, Output: nil, Return: h.clock})
	if len(h.ops) > 2000 {
		h.prune()
	}
}

// acted takes a step, the first of a tenure or another one, and says what is wrong with it at once. A tenure counts as acquired when its
// first step is taken: a right that nobody used hurts nobody.
func (h *history) acted(called int64, node int, epoch fleet.Epoch, first bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count++
	h.record(called, deed{first, node, epoch})
	if h.by == nil {
		h.by = map[fleet.Epoch]int{}
	}
	if first, taken := h.by[epoch]; taken && first != node {
		return fmt.Errorf("fe%d and fe%d act under one epoch %v", first+1, node+1, epoch)
	}
	h.by[epoch] = node
	if epoch.Compare(h.latest) < 0 {
		return fmt.Errorf("fe%d acts under %v after somebody acted under %v", node+1, epoch, h.latest)
	}
	h.latest = epoch
	return nil
}

// prune forgets steps in the middle of a tenure: the first and the last of a tenure are what an order is judged by.
func (h *history) prune() {
	var kept []porcupine.Operation
	for i, op := range h.ops {
		d := op.Input.(deed)
		repeated := i > 0 && i < len(h.ops)-1 && !d.acquire && h.ops[i-1].Input == op.Input && h.ops[i+1].Input == op.Input
		if !repeated {
			kept = append(kept, op)
		}
	}
	h.ops = kept
}

// tenure is the model's state: who holds, under which epoch.
type tenure struct {
	node  int
	epoch fleet.Epoch
}

// model is the lease as an object: an acquire needs a later epoch than every one before it, a step the very tenure that was acquired last.
var model = porcupine.Model{
	Init: func() any { return tenure{node: -1} },
	Step: func(state, input, _ any) (bool, any) {
		s, d := state.(tenure), input.(deed)
		if d.acquire {
			return d.epoch.Compare(s.epoch) > 0, tenure{d.node, d.epoch}
		}
		return s == tenure{d.node, d.epoch}, s
	},
	Equal: func(a, b any) bool { return a == b },
}

// check has the whole history judged.
func (h *history) check() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch porcupine.CheckOperationsTimeout(model, h.ops, 0) {
	case porcupine.Ok:
		return nil
	case porcupine.Illegal:
		return fmt.Errorf("what %d deeds under the lease were done in has no order that a lease allows", len(h.ops))
	}
	return errors.New("porcupine gave up")
}
