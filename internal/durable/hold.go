package durable

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrDetached says that a Root leads nowhere at the moment; see Detach. It does not match fs.ErrNotExist: nothing is known of what is missing.
var ErrDetached = errors.New("the directory is not there")

// hold is a root's grip on its directory.
type hold struct {
	mu       sync.RWMutex // held for reading while a name is looked up, not for longer
	grip     grip
	detached bool
}

type grip struct {
	top *os.File
	raw syscall.RawConn // of top: keeps the descriptor from being closed while it is used
	is  inode
}

func takeHold(dir string) (grip, error) {
	var fd int
	err := retrying(func() (err error) {
		fd, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return grip{}, failure("open directory", dir, err)
	}
	g := grip{top: os.NewFile(uintptr(fd), dir)}
	g.is, err = directory(fd).identity()
	if err != nil {
		return grip{}, errors.Join(failure("examine", dir, err), g.top.Close())
	}
	if g.raw, err = g.top.SyscallConn(); err != nil {
		return grip{}, errors.Join(failure("open directory", dir, err), g.top.Close())
	}
	return g, nil
}

// use does something with the directory's descriptor.
func (h *hold) use(do func(top directory) error) error {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.detached {
		return ErrDetached
	}
	var err error
	if closed := h.grip.raw.Control(func(fd uintptr) { err = do(directory(fd)) }); closed != nil {
		err = closed
	}
	return err
}

func (h *hold) identity() inode {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.grip.is
}

func (h *hold) close() error {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.grip.top.Close()
}

// Detach makes every call fail with ErrDetached until Reopen: the directory that is open is no longer the one that Dir leads to, and nobody
// would look there for what is written. It stays open, so that none that is made meanwhile can be taken for it.
func (r *Root) Detach() {
	r.hold.mu.Lock()
	defer r.hold.mu.Unlock()
	r.hold.detached = true
}

// Reopen opens the directory that Dir leads to now in place of the one before.
func (r *Root) Reopen() error {
	g, err := takeHold(r.path)
	if err != nil {
		return fmt.Errorf("the directory cannot be taken up again: %w", err)
	}
	r.spares.drop()
	r.hold.mu.Lock()
	defer r.hold.mu.Unlock()
	before := r.hold.grip.top
	r.hold.grip, r.hold.detached = g, false
	return before.Close()
}
