package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"syscall"
	"testing"

	"certswarm/internal/peer"
)

// lines is a log that is read while it is written.
type lines chan map[string]any

// Write implements io.Writer; slog hands over one line at a time.
func (l lines) Write(text []byte) (int, error) {
	var line map[string]any
	if err := json.Unmarshal(bytes.TrimSpace(text), &line); err != nil {
		return 0, err
	}
	l <- line
	return len(text), nil
}

// until returns the first line that says message.
func (l lines) until(message string) map[string]any {
	for line := range l {
		if line["msg"] == message {
			return line
		}
	}
	return nil
}

// freeAddress returns a UDP address on which nobody listened a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.LocalAddr().String()
}

func TestTheLogSaysWhyTheDaemonStoppedAndHowLongItTook(t *testing.T) {
	state := t.TempDir()
	id, _, err := peer.CreateIdentity(state)
	if err != nil {
		t.Fatal(err)
	}
	files(t, map[string]string{"certswarm.yaml": fmt.Sprintf(`version: 1
cluster: edge
state_dir: %s
control_socket: %s
listen: %q
peers: [{name: fe1, id: %s, addresses: ["127.0.0.1:7443"]}]
directories: [{name: certs, path: %s}]
nginx: {enabled: false}
`, state, filepath.Join(state, "c.sock"), freeAddress(t), id.ID(), t.TempDir())})
	log := make(lines, 100)
	ended := make(chan error, 1)
	go func() {
		ended <- runDaemon(t.Context(), "certswarm.yaml", log)
		close(log)
	}()
	if log.until("certswarm is up") == nil {
		t.Fatal(<-ended)
	}
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if line := log.until("certswarm is stopping"); line == nil || line["cause"] != "SIGTERM" {
		t.Errorf("%v", line)
	}
	if line := log.until("certswarm has stopped"); line == nil || line["took"] == nil {
		t.Errorf("%v", line)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
