package ca

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// nameServer resolves every name to the front-ends, each time beginning with the next: whoever takes the first answer,
// as Pebble does, comes to another front-end at each look-up.
type nameServer struct {
	address  string
	unknown  func(name string) bool // names that have no address now
	udp, tcp *dns.Server
	serving  sync.WaitGroup

	mu    sync.Mutex
	front []net.IP       // guarded by mu
	asked map[string]int // look-ups of each name so far; guarded by mu
}

func startNameServer(addresses []string, unknown func(string) bool) (*nameServer, error) {
	n := &nameServer{asked: make(map[string]int), unknown: unknown}
	if err := n.point(addresses); err != nil {
		return nil, err
	}
	listener, packets, err := listenBoth()
	if err != nil {
		return nil, err
	}
	n.address = listener.Addr().String()
	n.udp = &dns.Server{PacketConn: packets, Handler: n}
	n.tcp = &dns.Server{Listener: listener, Handler: n}
	for _, server := range []*dns.Server{n.udp, n.tcp} {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		n.serving.Go(func() { _ = server.ActivateAndServe() })
		<-started
	}
	return n, nil
}

// listenBoth finds a port that is free for TCP and UDP.
func listenBoth() (net.Listener, net.PacketConn, error) {
	var last error
	for range 20 {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, nil, fmt.Errorf("ca: name server: %w", err)
		}
		packets, err := net.ListenPacket("udp", listener.Addr().String())
		if err == nil {
			return listener, packets, nil
		}
		last = errors.Join(err, listener.Close())
	}
	return nil, nil, fmt.Errorf("ca: name server: no port is free for both TCP and UDP: %w", last)
}

// ServeDNS implements dns.Handler. There are A records only; all else exists and is empty.
func (n *nameServer) ServeDNS(w dns.ResponseWriter, question *dns.Msg) {
	answer := new(dns.Msg)
	answer.SetReply(question)
	for _, q := range question.Question {
		if q.Qtype != dns.TypeA || n.unknown(strings.TrimSuffix(q.Name, ".")) {
			continue
		}
		for _, ip := range n.turn(dns.CanonicalName(q.Name)) {
			answer.Answer = append(answer.Answer, &dns.A{
				Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET},
				A:   ip,
			})
		}
	}
	_ = w.WriteMsg(answer) // a resolver that is gone does not want it
}

// point makes every name resolve to these addresses from now on.
func (n *nameServer) point(addresses []string) error {
	var front []net.IP
	for _, a := range addresses {
		ip := net.ParseIP(a).To4()
		if ip == nil {
			return fmt.Errorf("ca: %q is not an IPv4 address", a)
		}
		front = append(front, ip)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.front = front
	return nil
}

// turn returns the front-ends in the order in which they come for name this time.
func (n *nameServer) turn(name string) []net.IP {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.front) == 0 {
		return nil
	}
	first := n.asked[name] % len(n.front)
	n.asked[name]++
	return slices.Concat(n.front[first:], n.front[:first])
}

// close may be called more than once.
func (n *nameServer) close() error {
	_ = n.udp.Shutdown() // the only error is "not started", which a second call gets
	_ = n.tcp.Shutdown()
	n.serving.Wait()
	return nil
}
