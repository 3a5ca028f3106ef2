// Command versus is `make bench-peers`: it puts the same work on certswarm and on Syncthing, rsync or lego, in one run on one disk, and prints what
// each of them took as a table for docs/BENCHMARKS.md. What the work on files is, is in testnet/load.
//
// A figure is printed only of work that was done: every tree is compared afterwards, byte by byte. Whether a target was met is said
// and has no part in the exit status.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"certswarm/testnet/real"
)

func main() {
	o, err := parseOptions(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err != nil {
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err = run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "versus:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	dir    string
	only   *regexp.Regexp
	rounds int
	files  int
}

func parseOptions(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("versus", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.dir, "dir", ".", "a `directory` on the disk that is measured")
	only := flags.String("only", "", "measure only what matches this `pattern`: propagation, tree, away, ten, many, issuance")
	flags.IntVar(&o.rounds, "rounds", 3, "how often the work on trees is done, by Syncthing always once; the median counts")
	flags.IntVar(&o.files, "files", 10_000, "how many files a tree has; the targets are for 10,000")
	err := flags.Parse(args)
	if err == nil && (flags.NArg() > 0 || o.rounds < 1 || o.files < 1000) {
		err = errors.New("versus takes no arguments, at least one round, and at least 1000 files")
		fmt.Fprintln(stderr, err)
	}
	if err == nil {
		if o.only, err = regexp.Compile(*only); err != nil {
			fmt.Fprintln(stderr, err)
		}
	}
	return o, err
}

// patience is for one piece of work of one program.
const patience = 10 * time.Minute

func run(ctx context.Context, o options) (err error) {
	for _, program := range []string{"syncthing", "rsync", "lego"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("there is no %s here to compare with: .ci/deps bench", program)
		}
	}
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return err
	}
	// Nothing in it is removed before all is measured: ext4 passes over the inodes that were freed in the last seconds one by one, so that
	// who makes files after a large removal pays for it.
	if dir, err = os.MkdirTemp(dir, "versus-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	here, err := describe(ctx, dir)
	if err != nil {
		return err
	}
	binary, err := real.Build(ctx, dir)
	if err != nil {
		return err
	}
	b := &bench{options: o, dir: dir, certswarm: binary, programs: []program{certswarm{binary}, syncthing{}}, table: newTable()}
	for _, w := range works {
		if !o.only.MatchString(w.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "versus: %s\n", w.name)
		if err := w.do(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
	}
	fmt.Printf("%s\n\n%s", here, b.table)
	return nil
}
