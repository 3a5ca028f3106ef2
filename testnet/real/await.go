package real

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"certswarm/internal/control"
)

// Condition looks at what every running agent says of the fleet, and says what is missing.
type Condition func([]control.Status) (ok bool, why string)

// Await returns when the condition is true of what the running agents say, each as of its last word.
func (f *Fleet) Await(ctx context.Context, condition Condition) error {
	var watchers sync.WaitGroup
	defer watchers.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type word struct {
		node   int
		status control.Status
		err    error
	}
	words := make(chan word)
	watching := 0
	for i, n := range f.Nodes {
		if !n.Running() {
			continue
		}
		watching++
		watchers.Go(func() {
			err := n.Control().Watch(ctx, func(s control.Status) bool {
				select {
				case words <- word{node: i, status: s}:
					return true
				case <-ctx.Done():
					return false
				}
			})
			select {
			case words <- word{node: i, err: err}:
			case <-ctx.Done():
			}
		})
	}
	last := map[int]control.Status{}
	why := "no agent has said anything yet"
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; missing was: %s", context.Cause(ctx), why)
		case w := <-words:
			if w.err != nil && ctx.Err() == nil {
				return fmt.Errorf("%s can no longer be watched: %w", f.Nodes[w.node].Name, w.err)
			}
			last[w.node] = w.status
		}
		if len(last) < watching {
			continue
		}
		var all []control.Status
		for i := range f.Nodes {
			if s, ok := last[i]; ok {
				all = append(all, s)
			}
		}
		var ok bool
		if ok, why = condition(all); ok {
			return nil
		}
	}
}

// Synced is true when the agents are connected with each other, nobody lacks a file, and all hold the same.
func Synced(all []control.Status) (ok bool, why string) {
	var missing []string
	for _, s := range all {
		for _, p := range s.Peers {
			if !p.Connected && isAmong(all, p.Name) {
				missing = append(missing, fmt.Sprintf("%s is not connected with %s", s.Node.Name, p.Name))
			}
		}
		if ok, why := control.IsSynced(s); !ok {
			missing = append(missing, s.Node.Name+" says: "+why)
		}
		for i, d := range s.Directories {
			if first := all[0].Directories[i]; d.Fingerprint != first.Fingerprint {
				missing = append(missing, fmt.Sprintf("%s on %s differs from %s", d.Name, s.Node.Name, all[0].Node.Name))
			}
		}
	}
	return len(missing) == 0, strings.Join(missing, "; ")
}

func isAmong(all []control.Status, name string) bool {
	for _, s := range all {
		if s.Node.Name == name {
			return true
		}
	}
	return false
}

// Served is true when every agent says that every node's front-end serves the issued certificate.
func Served(all []control.Status) (ok bool, why string) {
	var missing []error
	for _, s := range all {
		if ok, why := control.IsServed(s, ""); !ok {
			missing = append(missing, fmt.Errorf("%s says: %s", s.Node.Name, why))
		} else if serving := len(s.Serving()); serving < len(all) {
			missing = append(missing, fmt.Errorf("%s knows of %d front-ends, not %d", s.Node.Name, serving, len(all)))
		}
	}
	err := errors.Join(missing...)
	return err == nil, fmt.Sprint(err)
}
