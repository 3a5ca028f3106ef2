package real

import (
	"errors"
	"fmt"
	"net"
)

// ports are the same on every address of a fleet.
type ports struct{ peer, http, https int }

// freePorts finds ports that are free on every address. Nobody keeps them free: whoever needs certainty uses addresses
// that nobody else does.
func freePorts(addresses []string) (ports, error) {
	if len(addresses) == 0 {
		return ports{}, errors.New("a fleet needs at least one address")
	}
	var p ports
	var held []func() error
	defer func() {
		for _, release := range held {
			_ = release()
		}
	}()
	for _, wanted := range []struct {
		port *int
		open func(address string) (int, func() error, error)
	}{{&p.peer, openUDP}, {&p.http, openTCP}, {&p.https, openTCP}} {
		port, release, err := commonPort(addresses, wanted.open)
		held = append(held, release...)
		if err != nil {
			return ports{}, err
		}
		*wanted.port = port
	}
	return p, nil
}

// commonPort opens the port that is free on the first address on all others too, or tries another.
func commonPort(addresses []string, open func(string) (int, func() error, error)) (port int, release []func() error, err error) {
	const tries = 50
	for range tries {
		port = 0
		for _, address := range addresses {
			var done func() error
			port, done, err = open(net.JoinHostPort(address, fmt.Sprint(port)))
			if err != nil {
				break
			}
			release = append(release, done)
		}
		if err == nil {
			return port, release, nil
		}
	}
	return 0, release, fmt.Errorf("no port is free on all of %v: %w", addresses, err)
}

func openUDP(address string) (int, func() error, error) {
	conn, err := net.ListenPacket("udp", address)
	if err != nil {
		return 0, nil, err
	}
	return conn.LocalAddr().(*net.UDPAddr).Port, conn.Close, nil
}

func openTCP(address string) (int, func() error, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return 0, nil, err
	}
	return listener.Addr().(*net.TCPAddr).Port, listener.Close, nil
}
