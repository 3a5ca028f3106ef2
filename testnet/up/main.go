// Command up is `make demo`: it starts a fleet of real agents, front-ends and a CA on this machine's loopback network,
// lets it obtain a certificate, asks for another and kills the node that is about to get it, prints what happened when, and
// judges by its own eyes whether what certswarm claims was true. It exits with 0 only if all of it was.
//
// It neither knows how a fleet is started (testnet/real) nor helps the agents in any way.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"certswarm/testnet/ca"
	"certswarm/testnet/frontend"
	"certswarm/testnet/real"
)

const (
	site = "www.example.com"
	also = "example.com"

	startPatience = time.Minute
	jobPatience   = time.Minute // several times what a busy machine needs

	// leaseTTL is a tenth of the default: nobody wants to watch a lease expire.
	leaseTTL = 3 * time.Second
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == frontend.Standin {
		os.Exit(frontend.StandinMain(os.Args[2:], os.Stdout, os.Stderr))
	}
	o, err := parseOptions(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err != nil {
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err = run(ctx, o, newPage(os.Stdout))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	nodes   int
	hold    bool
	keep    bool
	standin bool
	binary  string
}

func parseOptions(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("up", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&o.nodes, "nodes", 3, "how many `nodes` the fleet has, 1 to 20")
	flags.BoolVar(&o.hold, "hold", false, "leave the fleet running until Ctrl-C")
	flags.BoolVar(&o.keep, "keep", false, "leave the files when it is over")
	flags.BoolVar(&o.standin, "standin", false, "use the stand-in although nginx is installed")
	flags.StringVar(&o.binary, "certswarm", "", "the certswarm `program` (default: the one beside this one, else it is built)")
	err := flags.Parse(args)
	if err == nil && (o.nodes < 1 || o.nodes > 20 || flags.NArg() > 0) {
		err = errors.New("up takes no arguments, and -nodes is from 1 to 20")
		fmt.Fprintln(stderr, err)
	}
	return o, err
}

// run is the demo: the fleet is started, watched, judged and stopped.
func run(ctx context.Context, o options, p *page) (err error) {
	binary, discard, err := findBinary(ctx, o.binary)
	if err != nil {
		return err
	}
	defer discard()
	faults := new(ca.Faults)
	c := real.Config{
		Binary: binary, Addresses: real.Loopback(o.nodes), Cluster: "demo", Names: []string{site, also}, Faults: faults,
		Lease: []string{"ttl: " + leaseTTL.String()},
	}
	if o.standin {
		c.FrontEnd = frontend.Standin
	}

	begun := time.Now()
	starting, cancel := context.WithTimeoutCause(ctx, startPatience, fmt.Errorf("the fleet is not up after %v", startPatience))
	defer cancel()
	fleet, err := real.Start(starting, c)
	if err != nil {
		return orInterrupted(ctx, err)
	}
	defer func() {
		err = errors.Join(err, fleet.Stop())
		if o.keep {
			p.line("The files are left in %s", fleet.Dir)
			return
		}
		err = errors.Join(err, fleet.Remove())
	}()
	p.introduce(fleet, time.Since(begun))

	if err := acts(ctx, fleet, faults, p); err != nil {
		return orInterrupted(ctx, err)
	}
	p.line("")
	p.line("The demo took %s.", time.Since(begun).Round(100*time.Millisecond))
	if o.hold {
		p.explainHold(fleet)
		<-ctx.Done()
	}
	return nil
}

// acts plays the first act, and the second where somebody is left to ask when a node is killed.
func acts(ctx context.Context, fleet *real.Fleet, faults *ca.Faults, p *page) error {
	holder, err := firstCertificate(ctx, fleet, p)
	if err == nil && len(fleet.Nodes) > 1 {
		err = secondCertificate(ctx, fleet, faults, holder, p)
	}
	if err != nil {
		return err
	}
	p.heading("What an operator sees: certswarm status, on " + fleet.Nodes[len(fleet.Nodes)-1].Name)
	return showStatus(ctx, fleet, p)
}

// firstCertificate waits until the fleet has its certificate, and reports. It returns who holds the lease.
func firstCertificate(ctx context.Context, fleet *real.Fleet, p *page) (holder string, err error) {
	working, cancel := context.WithTimeoutCause(ctx, jobPatience, fmt.Errorf("not done after %v", jobPatience))
	defer cancel()
	undone := fleet.Await(working, real.Served)
	if undone == nil {
		undone = fleet.Await(working, real.Synced) // the tokens are withdrawn, too
	}
	status, err := fleet.Nodes[0].Control().Status(ctx)
	if err != nil {
		return "", err
	}
	if undone == nil {
		_, undone = fleet.Node(status.Lease.Holder).Log.Await(working, 0, func(e real.Event) bool { return e.Attribute("step") == "verified" })
	}
	if ctx.Err() != nil {
		return "", undone
	}
	seen, err := gather(ctx, fleet, time.Time{})
	if err != nil {
		return "", err
	}
	p.heading("What happened")
	p.timeline(timeline(seen))
	return status.Lease.Holder, p.verdict(seen, claims(seen), undone)
}

// secondCertificate has another one asked for, kills the node that is about to get it, and reports.
func secondCertificate(ctx context.Context, fleet *real.Fleet, faults *ca.Faults, holder string, p *page) error {
	working, cancel := context.WithTimeoutCause(ctx, jobPatience, fmt.Errorf("not done after %v", jobPatience))
	defer cancel()
	p.line("")
	p.line("Now somebody asks for a renewal, and %s is killed with -9 when the CA is about to answer it.", holder)
	t, undone := takeOver(working, fleet, faults, holder)
	if ctx.Err() != nil {
		return undone
	}
	seen, err := gather(ctx, fleet, t.asked)
	if err != nil {
		return errors.Join(undone, err)
	}
	p.heading("What happened then")
	p.timeline(timeline(seen, t.moments()...))
	p.heading("What certswarm cert renew said meanwhile, on " + t.asker)
	p.quote(t.said)
	return p.verdict(seen, takeoverClaims(seen, t), undone)
}

// verdict prints what came true of an act. The error says what did not.
func (p *page) verdict(seen evidence, all []claim, undone error) error {
	failed := p.claims(all)
	switch {
	case undone != nil:
		p.complaints(seen)
		return fmt.Errorf("the certificate is not served everywhere: %w", undone)
	case failed > 0:
		p.complaints(seen)
		return fmt.Errorf("%d of the claims above did not come true", failed)
	}
	return nil
}

// showStatus runs the real command on the last node, which issued nothing itself.
func showStatus(ctx context.Context, fleet *real.Fleet, p *page) error {
	args := []string{"status"}
	if !p.colors {
		args = append(args, "--no-color")
	}
	command := fleet.Nodes[len(fleet.Nodes)-1].Certswarm(ctx, args...)
	command.Stdout, command.Stderr = p.out, p.out
	if err := command.Run(); err != nil {
		return fmt.Errorf("certswarm status: %w", err)
	}
	return nil
}

// findBinary returns the certswarm program, and what removes it again if it had to be built.
func findBinary(ctx context.Context, given string) (binary string, discard func(), err error) {
	if given != "" {
		binary, err = filepath.Abs(given)
		return binary, func() {}, err
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "certswarm")
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
			return beside, func() {}, nil
		}
	}
	dir, err := os.MkdirTemp("", "certswarm-build-")
	if err != nil {
		return "", nil, err
	}
	discard = func() { _ = os.RemoveAll(dir) } // a temporary directory that stays is nobody's loss
	if binary, err = real.Build(ctx, dir); err != nil {
		discard()
	}
	return binary, discard, err
}

// orInterrupted keeps an error that is only the echo of a Ctrl-C short.
func orInterrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return err
}

// introduce says what was started where.
func (p *page) introduce(fleet *real.Fleet, took time.Duration) {
	first := fleet.Nodes[0]
	var addresses []string
	for _, n := range fleet.Nodes {
		addresses = append(addresses, n.Address)
	}
	p.heading(fmt.Sprintf("A certswarm fleet of %d on this machine", len(fleet.Nodes)))
	p.row("agents", "%d processes on %s; UDP port %s", len(fleet.Nodes), strings.Join(addresses, ", "), portOf(first.Listen()))
	kind := first.FrontEnd.Kind()
	p.row("front-ends", "%d x %s, one for each agent; HTTP port %s, HTTPS port %s", len(fleet.Nodes), kind, portOf(first.HTTP()), portOf(first.HTTPS()))
	if kind == "stand-in" {
		p.row("", "The stand-in is a small server that serves the same files as nginx would. For nginx itself: `make deps`, or")
		p.row("", "`apt-get install nginx`; it need not run.")
	}
	p.row("CA", "Pebble in strict mode, at %s; it validates from three perspectives, and its", fleet.CA.DirectoryURL())
	p.row("", "name server sends each of them to another front-end")
	p.row("files", "%s; each node has its own certs directory", fleet.Dir)
	p.line("")
	p.line("All of it was up after %s. Whichever node holds the lease may ask the CA, and no other; it is good for %v at a time.", ms(took), leaseTTL)
}

func portOf(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }

// explainHold says how to talk to a fleet that stays.
func (p *page) explainHold(fleet *real.Fleet) {
	first, last := fleet.Nodes[0], fleet.Nodes[len(fleet.Nodes)-1]
	program := first.Certswarm(context.Background()).Path
	p.heading("The fleet stays up until Ctrl-C")
	p.line("  status of a node     %s status --watch --config %s", program, last.ConfigFile)
	p.line("  prove it again       %s verify --config %s", program, first.ConfigFile)
	p.line("  a handshake          openssl s_client -connect %s -servername %s </dev/null | openssl x509 -noout -serial -dates", last.HTTPS(), site)
	p.line("  write a file here    echo hello > %s", filepath.Join(first.Certs, "hello"))
	p.line("  and read it there    cat %s", filepath.Join(last.Certs, "hello"))
	p.line("  what an agent says   tail -f %s", filepath.Join(last.Dir, "agent.log"))
	p.line("  kill one             kill -9 %d   (%s)", last.PID(), last.Name)
}
