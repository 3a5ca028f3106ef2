package agent

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	trimInterval = 10 * time.Second
	trimSlack    = 1 << 20 // bytes of free heap that are not worth a collection
	unmapSlack   = 2 << 20 // bytes of files that are not worth unmapping
)

// giveBack returns memory that a burst left behind (a scan, a batch, a reload) to the system, for a daemon that is idle most of its
// life. Left to itself the runtime keeps it for many minutes.
func (h *house) giveBack(ctx context.Context) {
	if !h.edges.OwnProcess {
		return
	}
	free := []metrics.Sample{{Name: "/memory/classes/heap/free:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}}
	tick := time.NewTicker(trimInterval)
	defer tick.Stop()
	var left uint64
	least := int64(-1) // what is mapped again soon after everything was unmapped
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(free)
		if slack := free[0].Value.Uint64() + free[1].Value.Uint64(); slack > left+trimSlack {
			debug.FreeOSMemory()
			metrics.Read(free)
			left = free[0].Value.Uint64() + free[1].Value.Uint64() // what no collection gives back
		}
		switch mapped := fileBacked(); {
		case least < 0, mapped > least+unmapSlack:
			if err := unmapFiles(h.cfg.StateDir); err != nil {
				h.log.Debug("pages of files stay mapped", "error", err)
			}
			if least < 0 {
				least = mapped
			}
		default:
			least = min(least, mapped)
		}
	}
}

// fileBacked returns how many bytes of files this process has in memory as part of its own: the program, and the state database. It is 0 where the
// kernel does not tell.
func fileBacked() int64 {
	text, err := os.ReadFile("/proc/self/statm") // proc_pid_statm(5), in pages
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	if len(fields) < 3 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[2], 10, 64) // what is no number is no reason to do anything
	return pages * int64(os.Getpagesize())
}

// unmapFiles lets go of the pages of the program's file, half of which only a start or a burst needs, and of the files below stateDir. They stay in
// the page cache, from where those in use come back without reading; the others are the kernel's to keep or drop.
func unmapFiles(stateDir string) error {
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return err
	}
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	ours := func(file string) bool { return file == program || strings.HasPrefix(file, stateDir+"/") }
	for _, m := range cleanMappings(text, ours) {
		// Not by x/sys, which wants a slice: this is no memory of Go's.
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.from, m.to-m.from, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("madvise: %w", errno)
		}
	}
	return nil
}

type mapping struct{ from, to uintptr }

// cleanMappings returns the mappings of our files in which nothing can be written, nor was: what a loader relocated (in a position-independent program) is
// not in the file.
func cleanMappings(smaps []byte, ours func(file string) bool) (out []mapping) {
	var m mapping
	candidate := false
	for lines := bufio.NewScanner(bytes.NewReader(smaps)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) >= 5 && !strings.HasSuffix(fields[0], ":"): // proc_pid_maps(5): range, permissions, offset, device, inode, path
			_, err := fmt.Sscanf(fields[0], "%x-%x", &m.from, &m.to)
			candidate = err == nil && len(fields) == 6 && ours(fields[5]) && !strings.Contains(fields[1], "w")
		case candidate && fields[0] == "Anonymous:": // proc_pid_smaps(5): pages that are not the file's
			if len(fields) > 1 && fields[1] == "0" {
				out = append(out, m)
			}
			candidate = false
		}
	}
	return out
}
