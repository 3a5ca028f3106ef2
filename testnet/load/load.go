// Package load is the work that replications of files are measured with, and the instruments: trees of files like those of
// certificate stores, when a file arrives, what a process uses, what passes over a wire. It neither knows nor starts the
// programs that are measured: each implements Swarm.
package load

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Swarm is nodes that a program keeps the same directory on. They are numbered; whatever is written here is written on
// node 0.
type Swarm interface {
	// Dirs returns the directory of each node.
	Dirs() []string
	// PIDs returns the process of each node.
	PIDs() []int

	// Stop ends the program of a node, which is not node 0.
	Stop(node int) error
	// Start starts it again and returns when node 0 and it had met.
	Start(ctx context.Context, node int) (met time.Time, err error)
	// Traffic returns the bytes that have passed between the nodes since the last Start.
	Traffic(ctx context.Context) (int64, error)

	// Look returns when node 0 knows what is on its disk.
	Look(ctx context.Context) error
	// Settle returns when node 0 knows that every node that runs durably holds what node 0 knows of.
	Settle(ctx context.Context) error
}

// Told is a Swarm whose program is told of what was written on node 0, for it would notice only much later.
type Told interface {
	Swarm
	// Tell names what was written, below the directory; "" is anything.
	Tell(ctx context.Context, path string) error
}

func tell(ctx context.Context, s Swarm, path string) error {
	if told, ok := s.(Told); ok {
		return told.Tell(ctx, path)
	}
	return nil
}

// Spread is how long something took each time, the quickest first.
type Spread []time.Duration

// SpreadOf sorts.
func SpreadOf(took []time.Duration) Spread { return slices.Sorted(slices.Values(took)) }

// At returns the quantile q: 0.5 is the median, 1 the slowest.
func (s Spread) At(q float64) time.Duration {
	return s[min(int(q*float64(len(s))), len(s)-1)]
}

// Delivery is how long after the first write something was on every node.
type Delivery struct {
	Visible time.Duration // under its name
	Durable time.Duration // and known to be on the disk
}

// Burst writes files on node 0, all at once, and waits until they are everywhere.
func Burst(ctx context.Context, s Swarm, files Tree) (Delivery, error) {
	arrivals, err := Watch(files.Below(s.Dirs()[1:]...)...)
	if err != nil {
		return Delivery{}, err
	}
	defer arrivals.Close()
	if err := SyncDisk(s.Dirs()[0]); err != nil {
		return Delivery{}, err
	}
	begun := time.Now()
	if err := files.Write(s.Dirs()[0]); err != nil {
		return Delivery{}, err
	}
	if err := tell(ctx, s, ""); err != nil {
		return Delivery{}, err
	}
	last, err := arrivals.Await(ctx, files.Paths(s.Dirs()[1:]...))
	if err != nil {
		return Delivery{}, err
	}
	if err := s.Settle(ctx); err != nil {
		return Delivery{}, err
	}
	return Delivery{Visible: last.Sub(begun), Durable: time.Since(begun)}, nil
}

// Fill writes files on node 0 and waits until they are everywhere.
func Fill(ctx context.Context, s Swarm, files Tree) error {
	if err := files.Write(s.Dirs()[0]); err != nil {
		return err
	}
	if err := s.Look(ctx); err != nil {
		return err
	}
	for _, dir := range s.Dirs()[1:] {
		if err := files.AwaitAll(ctx, dir); err != nil {
			return err
		}
	}
	return s.Settle(ctx)
}

// Join writes files on node 0 of an empty swarm while node 1 is away, and measures from the start of node 1 on.
func Join(ctx context.Context, s Swarm, files Tree) (Delivery, error) {
	if err := s.Stop(1); err != nil {
		return Delivery{}, err
	}
	if err := files.Write(s.Dirs()[0]); err != nil {
		return Delivery{}, err
	}
	if err := s.Look(ctx); err != nil {
		return Delivery{}, err
	}
	if err := SyncDisk(s.Dirs()[0]); err != nil {
		return Delivery{}, err
	}
	begun := time.Now()
	if _, err := s.Start(ctx, 1); err != nil {
		return Delivery{}, err
	}
	if err := files.AwaitAll(ctx, s.Dirs()[1]); err != nil {
		return Delivery{}, err
	}
	visible := time.Since(begun)
	if err := s.Settle(ctx); err != nil {
		return Delivery{}, err
	}
	return Delivery{Visible: visible, Durable: time.Since(begun)}, nil
}

// Reunion is what it took a node to catch up.
type Reunion struct {
	Start    time.Duration // from the start of its program to the connection
	Delivery               // from the connection
	Bytes    int64         // on the wire, both ways, the connection's own included
}

// Rejoin has files change on node 0 while node 1 is away.
func Rejoin(ctx context.Context, s Swarm, files Tree) (Reunion, error) {
	if err := s.Stop(1); err != nil {
		return Reunion{}, err
	}
	if err := files.Write(s.Dirs()[0]); err != nil {
		return Reunion{}, err
	}
	if err := s.Look(ctx); err != nil {
		return Reunion{}, err
	}
	var arrivals *Arrivals
	var err error
	if len(files) > 0 {
		if arrivals, err = Watch(files.Below(s.Dirs()[1])...); err != nil {
			return Reunion{}, err
		}
		defer arrivals.Close()
	}
	if err := SyncDisk(s.Dirs()[0]); err != nil {
		return Reunion{}, err
	}
	begun := time.Now()
	met, err := s.Start(ctx, 1)
	if err != nil {
		return Reunion{}, err
	}
	last := met
	if arrivals != nil {
		if last, err = arrivals.Await(ctx, files.Paths(s.Dirs()[1])); err != nil {
			return Reunion{}, err
		}
	}
	if err := s.Settle(ctx); err != nil {
		return Reunion{}, err
	}
	r := Reunion{Start: met.Sub(begun), Delivery: Delivery{Visible: last.Sub(met), Durable: time.Since(met)}}
	r.Bytes, err = s.Traffic(ctx)
	return r, err
}

// Propagation measures how long single files of 6 kB take from the rename on node 0 until they are readable on all others.
type Propagation struct {
	swarm    Swarm
	arrivals *Arrivals
	written  int
	Strays   int // temporary files that travelled although they were renamed at once
}

// Propagate begins a measurement, which its owner closes.
func Propagate(s Swarm) (*Propagation, error) {
	arrivals, err := Watch(s.Dirs()[1:]...)
	if err != nil {
		return nil, err
	}
	return &Propagation{swarm: s, arrivals: arrivals}, nil
}

// Close ends the measurement.
func (p *Propagation) Close() { p.arrivals.Close() }

// Next writes one file and returns when it is everywhere.
func (p *Propagation) Next(ctx context.Context) (time.Duration, error) {
	const names = 100 // as many files as there are; later ones replace them
	// What is not new does not travel.
	content := fmt.Appendf(nil, "this is file %06d\n", p.written)
	for len(content) < 6000 {
		content = append(content, "this is a line of a chain\n"...)
	}
	file := File{Path: fmt.Sprintf("file-%d", p.written%names), Content: content, Perm: 0o644}
	p.written++
	prepared, err := file.prepare(p.swarm.Dirs()[0])
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	if err := prepared.rename(); err != nil {
		return 0, err
	}
	if err := tell(ctx, p.swarm, file.Path); err != nil {
		return 0, err
	}
	paths := Tree{file}.Paths(p.swarm.Dirs()[1:]...)
	last, strays, err := p.arrivals.await(ctx, paths)
	p.Strays += strays
	for _, path := range paths {
		if err == nil {
			err = file.verify(path)
		}
	}
	return last.Sub(begun), err
}

// Idle is what the most expensive node of an idle swarm costs.
type Idle struct {
	CPU float64 // per cent of a core
	RSS float64 // MiB
}

// Rest leaves a swarm alone and then measures for a while what it costs.
func Rest(ctx context.Context, s Swarm, before, during time.Duration) (Idle, error) {
	if err := sleep(ctx, before); err != nil {
		return Idle{}, err
	}
	used, err := cpuOf(s.PIDs())
	if err != nil {
		return Idle{}, err
	}
	if err := sleep(ctx, during); err != nil {
		return Idle{}, err
	}
	later, err := cpuOf(s.PIDs())
	if err != nil {
		return Idle{}, err
	}
	var idle Idle
	for i, pid := range s.PIDs() {
		resident, err := rss(pid)
		if err != nil {
			return Idle{}, err
		}
		idle.RSS = max(idle.RSS, resident)
		idle.CPU = max(idle.CPU, 100*(later[i]-used[i]).Seconds()/during.Seconds())
	}
	return idle, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
