// Package syncer keeps directories the same on every node: it notices what changes on the disk, offers it to the peers, fetches and
// applies what they offer, and acknowledges what is durably here. Publish puts a batch on the way and Await tells when it
// has arrived; everything that certswarm shares, be it a challenge or a key, goes this one way.
//
// It does not know what the files mean, who holds the lease, or how peers are reached: connections are handed in as Links,
// the kernel's hints as a Watcher. What is known and which version wins is decided in package index, which bytes are exchanged in
// package wire, which files belong together in package pairs; here is the state machine between them (replica), and the shell that gives it
// a disk, a store and peers.
package syncer

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"

	"certswarm/internal/durable"
	"certswarm/internal/fleet"
)

// Config is what all directories of a node share.
type Config struct {
	Self    fleet.NodeID
	Key     ed25519.PublicKey
	Sign    func(message []byte) []byte
	Cluster string
	State   *durable.Root // state databases and archives go below it
	NameOf  func(fleet.NodeID) string
	Watch   func() (Watcher, error)
	Log     *slog.Logger
	Busy    func() // called, from any goroutine, with everything that is done in bulk; nil: nobody asks
}

// Syncer is a node's part in the replication of its directories. Its life is Open, Run, nothing more; conversations are
// held while Run is running.
type Syncer struct {
	Config
	directories []*Directory // in the order of the configuration; fixed by Open
	anew        atomic.Bool  // one of them begins anew, and so they all end
}

// Open loads the directories and compares each with its disk. On an error nothing is left open.
func Open(cfg Config, directories []DirectoryConfig) (*Syncer, error) {
	if cfg.Busy == nil {
		cfg.Busy = func() {}
	}
	s := &Syncer{Config: cfg}
	for _, dc := range directories {
		d, err := s.open(dc)
		if err != nil {
			for _, opened := range s.directories {
				err = errors.Join(err, opened.close())
			}
			return nil, err
		}
		s.directories = append(s.directories, d)
	}
	return s, nil
}

// Run keeps the directories in step until ctx ends, or one of them cannot go on; see ErrRejoin. Everything known is on disk, and everything closed, when it returns.
func (s *Syncer) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	errs := make([]error, len(s.directories))
	var all sync.WaitGroup
	for i, d := range s.directories {
		all.Go(func() {
			errs[i] = d.run(ctx)
			stop() // none goes on without the others
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// Abandon closes what Open opened, instead of Run.
func (s *Syncer) Abandon() error {
	var errs []error
	for _, d := range s.directories {
		errs = append(errs, d.close())
	}
	return errors.Join(errs...)
}

// Directories returns the directories in the order in which they were given to Open.
func (s *Syncer) Directories() []*Directory { return append([]*Directory(nil), s.directories...) }
