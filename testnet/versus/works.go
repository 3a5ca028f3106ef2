package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"certswarm/testnet/load"
)

// program is something that keeps directories the same.
type program interface {
	name() string
	// start starts it on so many nodes, with empty directories below dir.
	start(ctx context.Context, dir string, nodes int, o startOptions) (swarm, error)
}

type startOptions struct {
	metered bool // the swarm will be asked for its Traffic
	durable bool // what is acknowledged is to survive a power loss, if the program leaves that open
}

// swarm is a program that runs.
type swarm interface {
	load.Swarm
	// pause is how long it is best left alone after one file, before it gets another.
	pause() time.Duration
	// Close ends it; its files stay.
	Close() error
}

// bench is a run of this program.
type bench struct {
	options
	dir       string
	certswarm string // the program's path
	programs  []program
	table     *table
	made      int // directories
}

var works = []struct {
	name string
	do   func(context.Context, *bench) error
}{
	{"propagation", propagation},
	{"tree", tree},
	{"away", away},
	{"ten", ten},
	{"many", many},
	{"issuance", issuance},
}

// fresh makes an empty directory.
func (b *bench) fresh() (string, error) {
	b.made++
	dir := filepath.Join(b.dir, fmt.Sprint(b.made))
	return dir, os.Mkdir(dir, 0o755)
}

// with has do work on a swarm of each program, one after the other.
func (b *bench) with(ctx context.Context, programs []program, nodes int, o startOptions, do func(context.Context, string, swarm) error) error {
	for _, p := range programs {
		if err := b.withOne(ctx, p, nodes, o, do); err != nil {
			return fmt.Errorf("%s: %w", p.name(), err)
		}
	}
	return nil
}

func (b *bench) withOne(ctx context.Context, p program, nodes int, o startOptions, do func(context.Context, string, swarm) error) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not done after %v", patience))
	defer cancel()
	fmt.Fprintf(os.Stderr, "versus:   %s\n", p.name())
	dir, err := b.fresh()
	if err != nil {
		return err
	}
	s, err := p.start(ctx, dir, nodes, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return do(ctx, p.name(), s)
}

// median keeps figures of several rounds and prints their medians.
type median map[cell][]float64

type cell struct {
	what row
	who  string
}

func (m median) add(what row, who string, figure float64) {
	m[cell{what, who}] = append(m[cell{what, who}], figure)
}

func (m median) into(t *table) {
	for c, figures := range m {
		slices.Sort(figures)
		t.set(c.what, c.who, figures[len(figures)/2])
	}
}

// propagation: single files on three nodes.
func propagation(ctx context.Context, b *bench) error {
	return b.with(ctx, b.programs, 3, startOptions{}, func(ctx context.Context, who string, s swarm) error {
		spread, err := spreadOf(ctx, s, 300)
		if err != nil {
			return err
		}
		for what, q := range map[row]float64{singleP50: 0.5, singleP90: 0.9, singleP99: 0.99, singleMax: 1} {
			b.table.set(what, who, milliseconds(spread.At(q)))
		}
		return nil
	})
}

func spreadOf(ctx context.Context, s swarm, n int) (load.Spread, error) {
	const warmUp = 20
	p, err := load.Propagate(s)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	var took []time.Duration
	for i := range warmUp + n {
		time.Sleep(s.pause())
		one, err := p.Next(ctx)
		if err != nil {
			return nil, err
		}
		if i >= warmUp {
			took = append(took, one)
		}
	}
	return load.SpreadOf(took), nil
}

// tree: a store of certificates to an empty node, and 500 files of it renewed at once.
func tree(ctx context.Context, b *bench) error {
	files, err := load.Certificates(b.files / 2)
	if err != nil {
		return err
	}
	renewed, err := load.Certificates(250)
	if err != nil {
		return err
	}
	m := median{}
	for round := range b.rounds {
		programs := b.programs
		if round > 0 {
			programs = programs[:1] // Syncthing takes minutes
		}
		dir, err := b.fresh()
		if err != nil {
			return err
		}
		if err := load.SyncDisk(dir); err != nil {
			return err
		}
		floor, err := files.Floor(dir)
		if err != nil {
			return err
		}
		m.add(treeDurable, floorName, milliseconds(floor))
		if floor, err = renewed.Floor(dir); err != nil {
			return err
		}
		m.add(burstDurable, floorName, milliseconds(floor))

		err = b.with(ctx, programs, 2, startOptions{durable: true}, func(ctx context.Context, who string, s swarm) error {
			join, err := load.Join(ctx, s, files)
			if err == nil {
				err = files.Verify(s.Dirs()[1])
			}
			if err != nil {
				return err
			}
			burst, err := load.Burst(ctx, s, renewed)
			if err == nil {
				err = renewed.Over(files).Verify(s.Dirs()[1])
			}
			m.add(treeDurable, who, milliseconds(join.Durable))
			m.add(burstVisible, who, milliseconds(burst.Visible))
			m.add(burstDurable, who, milliseconds(burst.Durable))
			return err
		})
		if err != nil {
			return err
		}
		if err := treeByRsync(ctx, b, m, files, renewed); err != nil {
			return fmt.Errorf("rsync: %w", err)
		}
	}
	m.into(b.table)
	return nil
}

func treeByRsync(ctx context.Context, b *bench, m median, files, renewed load.Tree) error {
	fmt.Fprintf(os.Stderr, "versus:   %s\n", rsyncName)
	for _, how := range []struct {
		who   string
		fsync bool
	}{{rsyncName, true}, {rsyncSyncName, false}} {
		dir, err := b.fresh()
		if err != nil {
			return err
		}
		err = withRsync(ctx, dir, how.fsync, func(r *rsync) error {
			if err := files.Write(r.from); err != nil {
				return err
			}
			took, err := r.timed(ctx, nil)
			if err == nil {
				err = files.Verify(r.to)
			}
			if err != nil {
				return err
			}
			m.add(treeDurable, how.who, milliseconds(took))
			if took, err = r.timed(ctx, renewed); err == nil {
				err = renewed.Over(files).Verify(r.to)
			}
			m.add(burstDurable, how.who, milliseconds(took))
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// away: a node that holds a store comes back after nothing, and after ten files, changed.
func away(ctx context.Context, b *bench) error {
	files, err := load.Certificates(b.files / 2)
	if err != nil {
		return err
	}
	renewed, err := load.Certificates(5)
	if err != nil {
		return err
	}
	after := renewed.Over(files)
	err = b.with(ctx, b.programs, 2, startOptions{metered: true, durable: true}, func(ctx context.Context, who string, s swarm) error {
		if err := load.Fill(ctx, s, files); err != nil {
			return err
		}
		nothing, err := load.Rejoin(ctx, s, nil)
		if err != nil {
			return err
		}
		some, err := load.Rejoin(ctx, s, renewed)
		if err != nil {
			return err
		}
		b.table.set(awayVisible, who, milliseconds(some.Visible))
		b.table.set(awayDurable, who, milliseconds(some.Durable))
		b.table.set(awayStart, who, milliseconds(some.Start+some.Durable))
		b.table.set(awayBytes, who, float64(some.Bytes)/1000)
		b.table.set(awayNothing, who, float64(nothing.Bytes)/1000)
		return after.Verify(s.Dirs()[1])
	})
	if err != nil {
		return err
	}
	dir, err := b.fresh()
	if err != nil {
		return err
	}
	return withRsync(ctx, dir, true, func(r *rsync) error {
		if err := files.Write(r.from); err != nil {
			return err
		}
		if _, err := r.timed(ctx, nil); err != nil {
			return err
		}
		if _, err := r.timed(ctx, nil); err != nil {
			return err
		}
		b.table.set(awayNothing, rsyncName, float64(r.bytes)/1000)
		if err := renewed.Write(r.from); err != nil {
			return err
		}
		took, err := r.timed(ctx, nil)
		if err != nil {
			return err
		}
		b.table.set(awayStart, rsyncName, milliseconds(took))
		b.table.set(awayBytes, rsyncName, float64(r.bytes)/1000)
		return after.Verify(r.to)
	})
}

// ten: one node, ten others and 1,000 files; what they cost, and when the last of the ten has a file.
func ten(ctx context.Context, b *bench) error {
	files, err := load.Certificates(500)
	if err != nil {
		return err
	}
	return b.with(ctx, b.programs, 11, startOptions{}, func(ctx context.Context, who string, s swarm) error {
		if err := load.Fill(ctx, s, files); err != nil {
			return err
		}
		idle, err := load.Rest(ctx, s, settling, resting)
		if err != nil {
			return err
		}
		b.table.set(tenRSS, who, idle.RSS)
		b.table.set(tenCPU, who, idle.CPU)
		for _, dir := range s.Dirs() {
			if err := files.Verify(dir); err != nil {
				return err
			}
		}
		spread, err := spreadOf(ctx, s, 100)
		if err != nil {
			return err
		}
		b.table.set(tenP50, who, milliseconds(spread.At(0.5)))
		b.table.set(tenMax, who, milliseconds(spread.At(1)))
		return nil
	})
}

// many: what a node costs that holds a large store and has two peers.
func many(ctx context.Context, b *bench) error {
	files, err := load.Certificates(b.files / 2)
	if err != nil {
		return err
	}
	return b.with(ctx, b.programs, 3, startOptions{}, func(ctx context.Context, who string, s swarm) error {
		if err := load.Fill(ctx, s, files); err != nil {
			return err
		}
		idle, err := load.Rest(ctx, s, settling, resting)
		if err != nil {
			return err
		}
		b.table.set(manyRSS, who, idle.RSS)
		b.table.set(manyCPU, who, idle.CPU)
		for _, dir := range s.Dirs() {
			if err := files.Verify(dir); err != nil {
				return err
			}
		}
		return nil
	})
}

// A program may take a while to give back what it used; then it is looked at.
const settling, resting = 15 * time.Second, 5 * time.Second

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
