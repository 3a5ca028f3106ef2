package ca

import (
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/miekg/dns"
)

// nameServer resolves every name to the front-ends, each time beginning with the next: whoever takes the first answer,
// as Pebble does, comes to another front-end at each look-up.
type nameServer struct {
	address  string
	front    []net.IP
	udp, tcp *dns.Server
	serving  sync.WaitGroup

	mu    sync.Mutex
	asked map[string]int // look-ups of each name so far; guarded by mu
}

func startNameServer(addresses []string) (*nameServer, error) {
	n := &nameServer{asked: make(map[string]int)}
	for _, a := range addresses {
		ip := net.ParseIP(a).To4()
		if ip == nil {
			return nil, fmt.Errorf("ca: %q is not an IPv4 address", a)
		}
		n.front = append(n.front, ip)
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
		if q.Qtype != dns.TypeA {
			continue
		}
		first := n.turn(dns.CanonicalName(q.Name))
		for i := range n.front {
			answer.Answer = append(answer.Answer, &dns.A{
				Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET},
				A:   n.front[(first+i)%len(n.front)],
			})
		}
	}
	_ = w.WriteMsg(answer) // a resolver that is gone does not want it
}

// turn returns which front-end comes first for name this time.
func (n *nameServer) turn(name string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	turn := n.asked[name]
	n.asked[name]++
	return turn % len(n.front)
}

// close may be called more than once.
func (n *nameServer) close() error {
	_ = n.udp.Shutdown() // the only error is "not started", which a second call gets
	_ = n.tcp.Shutdown()
	n.serving.Wait()
	return nil
}
