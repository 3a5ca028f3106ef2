package agent

import (
	"context"
	"log/slog"
	"net"
	"net/http"

	"certswarm/internal/agent/config"
	"certswarm/internal/control"
	"certswarm/internal/durable"
	"certswarm/internal/lease"
	"certswarm/nginx"
	"certswarm/syncer"
)

// Edges is everything of an agent that parks in the kernel. A simulation hands in others; the rest of an agent is plain
// time, contexts and goroutines.
type Edges struct {
	// ListenPacket opens the socket for peers.
	ListenPacket func(address string) (net.PacketConn, error)
	// Watch starts watching a directory tree for changes.
	Watch func() (syncer.Watcher, error)
	// Disk stands between the agent and what it changes on its disk; nil: nothing does.
	Disk durable.Interposer
	// Opened is told of the directories whenever they have been opened, before anything runs; nil: nobody asks.
	Opened func([]*syncer.Directory)
	// ListenControl opens the control socket.
	ListenControl func(path string) (net.Listener, error)
	// ListenHTTP01 opens the challenge responder's socket.
	ListenHTTP01 func(path string) (net.Listener, error)
	// Nginx is the binary that a configuration names.
	Nginx func(config.Nginx) nginx.Runner
	// Dial opens connections to this node's own nginx.
	Dial nginx.Dial
	// Clock ends rights to act; nil: package time's.
	Clock lease.Clock
	// Public opens connections to what the world sees under a certificate's name; nil: nobody looks.
	Public nginx.Dial
	// CA is the way to the CA; nil: HTTPS as the configuration says.
	CA http.RoundTripper
	// Busy is called, again and again, while there is more to do at once than one processor is for; nil: nobody asks.
	Busy func()
	// Ready is called when the promises of READY=1 hold.
	Ready func()
	// OwnProcess says that nothing else runs in this process: memory that is idle in it is the agent's to give back.
	OwnProcess bool
}

// RealEdges are those of a daemon.
func RealEdges(log *slog.Logger) Edges {
	var dialer net.Dialer
	return Edges{
		ListenPacket:  listenUDP,
		Watch:         syncer.NewInotify,
		ListenControl: control.Listen,
		ListenHTTP01:  listenPublic,
		Nginx: func(c config.Nginx) nginx.Runner {
			return &nginx.Exec{Binary: c.Binary, ConfigFile: c.Config, Prefix: c.Prefix}
		},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, address)
		},
		Public: dialer.DialContext,
		Clock:  lease.SystemClock,
		Ready: func() {
			if err := notifySystemd("READY=1"); err != nil {
				log.Warn("systemd could not be told that certswarm is ready", "error", err)
			}
		},
		OwnProcess: true,
	}
}
