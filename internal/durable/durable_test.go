package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func openRoot(t testing.TB, dir string) *Root {
	t.Helper()
	r, err := OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wants(t testing.TB, what string, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("%s: %v, which is not: %v", what, err, target)
	}
}

// tree is everything below dir: path -> mode and content.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	seen := make(map[string]string)
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		text := info.Mode().String()
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += " " + string(data)
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " -> " + target
		}
		seen[rel] = text
		return nil
	}))
	return seen
}

func put(t testing.TB, path, content string, perm os.FileMode) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(content), 0o600))
	must(t, os.Chmod(path, perm))
}

func stageText(t testing.TB, r *Root, name, token, text string, v Version) {
	t.Helper()
	warn, err := r.Stage(name, token, v, strings.NewReader(text))
	must(t, err)
	must(t, warn)
}

func public644() Version { return Version{Kind: File, Perm: 0o644, Owner: AsItIs} }

// withoutChown runs do as somebody who may not give files away, whoever runs the tests, but belongs to group: one
// besides its own if it has or can take one. Rights and groups are the thread's, and given back.
func withoutChown(t *testing.T, do func(group int)) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	groups, err := unix.Getgroups()
	must(t, err)
	group := append([]int{os.Getegid()}, groups...)[len(groups)]
	if os.Geteuid() == 0 {
		group = 54323
		setThreadGroups(t, []int{group})
		defer setThreadGroups(t, groups)
	}
	withoutRights(t, 1<<unix.CAP_CHOWN|1<<unix.CAP_FOWNER, func() { do(group) })
}

// withoutRights runs do without some capabilities, which the thread has back afterwards.
func withoutRights(t *testing.T, which uint32, do func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var had [2]unix.CapUserData
	must(t, unix.Capget(&header, &had[0]))
	less := had
	less[0].Effective &^= which
	must(t, unix.Capset(&header, &less[0]))
	defer func() { must(t, unix.Capset(&header, &had[0])) }()
	do()
}

// setThreadGroups is setgroups(2) without the broadcast to all threads that syscall.Setgroups adds.
func setThreadGroups(t *testing.T, groups []int) {
	t.Helper()
	ids := make([]uint32, len(groups)+1)
	for i, g := range groups {
		ids[i] = uint32(g)
	}
	if _, _, errno := unix.Syscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&ids[0])), 0); errno != 0 {
		t.Fatal(errno)
	}
}

func TestErrorsKeepTheErrnoAndSayWhatToDo(t *testing.T) {
	busy := failure("replace", "/certs/www.pem", unix.EBUSY)
	wants(t, "a mount point", busy, unix.EBUSY)
	for _, part := range []string{"/certs/www.pem", "mount point", "mount the directory"} {
		if !strings.Contains(busy.Error(), part) {
			t.Errorf("%q does not say %q", busy, part)
		}
	}
	wants(t, "a full directory", failure("remove", "d", unix.ENOTEMPTY), ErrNotEmpty)
	wants(t, "a full directory, in the dialect of some file systems", failure("remove", "d", unix.EEXIST), ErrNotEmpty)
	wants(t, "a missing file", failure("open", "f", unix.ENOENT), fs.ErrNotExist)
	if failure("open", "f", nil) != nil {
		t.Error("no error became one")
	}
}
