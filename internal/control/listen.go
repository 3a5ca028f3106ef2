package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// socketMode lets the daemon's user and group in and nobody else.
const socketMode = 0o660

// maxSocketPath is what sockaddr_un holds on Linux (unix(7)), without its final NUL.
const maxSocketPath = 107

// Listen creates the control socket at path, mode 0660, and its directory (0755) if that is missing. A socket that a
// dead daemon left behind is replaced; one that is answered is an error, and so is any other kind of file. Closing the
// listener removes the socket.
func Listen(path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("control socket %s: the path has %d bytes, a socket's may have %d; set control_socket to a shorter one", path, len(path), maxSocketPath)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	ln, err := listenConfig.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := os.Chmod(path, socketMode); err != nil { // whatever bits the umask took
		return nil, errors.Join(fmt.Errorf("control socket: %w", err), ln.Close())
	}
	return ln, nil
}

// listenConfig narrows the mode before bind creates the file, so that there is no moment at which others could connect.
var listenConfig = net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = syscall.Fchmod(int(fd), socketMode) }); err != nil {
		return err
	}
	return failed
}}

func removeStale(path string) error {
	found, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("control socket: %w", err)
	case found.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("control socket %s: something that is not a socket is there; move it away or set control_socket", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		return errors.Join(fmt.Errorf("control socket %s: another daemon answers there; stop it first, or give this one its own control_socket", path), conn.Close())
	case errors.Is(err, fs.ErrNotExist):
		return nil // its daemon has just ended
	case !errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("control socket %s: cannot tell whether another daemon answers there: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("control socket: cannot remove what a dead daemon left: %w", err)
	}
	return nil
}
