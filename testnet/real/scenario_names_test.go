package real_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"certswarm/internal/control"
	"certswarm/internal/need"
	"certswarm/testnet/real"
)

// Whatever a file is called and whatever it is, the others have the same, or it stays where it is and status says why.
func TestNamesAndTypes(t *testing.T) {
	t.Parallel()
	w := start(t, real.Config{
		Addresses: addresses(2),
		Directory: []string{`ignore: ["*.bak", "private/**"]`, "max_file_size: 1MiB"},
	})
	w.await(real.Synced)
	w.ballast(w.Nodes[0])
	scene(t, w, "files, directories and links in each other's place", everythingBecomesEverything)
	scene(t, w, "links inside", linksInside)
	scene(t, w, "links that lead out", linksThatLeadOut)
	scene(t, w, "strange names", strangeNames)
	scene(t, w, "a change of case", changeOfCase)
	scene(t, w, "too long a path", tooLongAPath)
	scene(t, w, "pipes, sockets and devices", pipesAndDevices)
	scene(t, w, "too large a file", tooLarge)
	scene(t, w, "what is ignored", ignored)
	scene(t, w, "setuid, setgid and sticky", specialBits)
	scene(t, w, "modes of directories", directoryModes)
	scene(t, w, "names that are not UTF-8 in status", notUTF8InStatus)
	scene(t, w, "in the end all is well", allIsWell)
}

// One path is in turn a file, a link, a directory with something in it, and everything else again.
func everythingBecomesEverything(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	place := in(from, "shape")
	makers := map[string]func(){
		"file": func() { w.must(os.WriteFile(place, []byte("a file"), 0o644)) },
		"link": func() { w.must(os.Symlink("ballast/1", place)) },
		"directory": func() {
			w.must(os.MkdirAll(place+"/sub", 0o755))
			w.must(os.WriteFile(place+"/sub/f", []byte("in it"), 0o644))
		},
		"empty": func() { w.must(os.Mkdir(place, 0o755)) },
	}
	for _, kind := range []string{
		"file", "link", "file", "directory", "file", "empty", "link", "directory", "link", "empty", "directory", "empty", "file",
	} {
		w.must(os.RemoveAll(place))
		makers[kind]()
		w.alike(from, to)
	}
}

// Relative links inside travel as they are written, also where they lead nowhere yet, to a directory or in a circle.
func linksInside(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	for name, target := range map[string]string{
		"links/to-file": "../ballast/1", "links/to-directory": "../ballast", "links/nowhere": "not-here",
		"links/self": "self", "links/odd": "./../links/./to-file",
	} {
		w.must(os.MkdirAll(in(from, "links"), 0o755))
		w.must(os.Symlink(target, in(from, name)))
		w.eventually(func() error {
			got, err := os.Readlink(in(to, name))
			if err == nil && got != target {
				err = fmt.Errorf("%s leads to %q", name, got)
			}
			return err
		})
	}
	w.must(os.Remove(in(from, "links/to-file")))
	w.must(os.Symlink("../ballast/2", in(from, "links/to-file")))
	w.arrives("links/to-file", "ballast 2\n", to)
}

// Links that lead out of the directory, and absolute ones, stay where they are; status names them until they are gone.
func linksThatLeadOut(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	w.must(os.Mkdir(in(from, "out"), 0o755))
	for name, target := range map[string]string{
		"out/absolute": "/etc/passwd", "out/above": "../../../etc/passwd", "out/root": "/", "out/around": "../out/../../certs/ballast/1",
		"out/inside-but-absolute": in(from, "ballast/1"),
	} {
		w.must(os.Symlink(target, in(from, name)))
		w.await(reports(control.NameRefused, from, name))
	}
	w.witness(from, to)
	for _, name := range []string{"out/absolute", "out/above", "out/root", "out/around", "out/inside-but-absolute"} {
		w.never(name, to)
		w.must(os.Remove(in(from, name)))
	}
	w.await(quiet(control.NameRefused))
}

// Names that scripts stumble over, two that Unicode says are the same, and bytes that are no text at all.
func strangeNames(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	names := []string{
		"with space", " leading and trailing ", "new\nline", "tab\there", "quote'\"`", "back\\slash", "-rf", "--", "*", "?", "[a]", "$HOME", "%2e%2e",
		"~", "#", "a..b", "...", "..hidden", ".hidden", "\x01\x7f", "noné", "non\u0065\u0301", "шифр", "証明書", "🔑", "\xff\xfe", "latin\xe9",
		"tail.", "con", strings.Repeat("l", 255), strings.Repeat("é", 127),
	}
	for _, name := range names {
		w.put(from, "strange/"+name, "this is "+name)
		w.put(from, "strange directories/"+name+"/file", "in "+name)
	}
	for _, name := range names {
		w.arrives("strange/"+name, "this is "+name, to)
		w.arrives("strange directories/"+name+"/file", "in "+name, to)
	}
	entries, err := os.ReadDir(in(to, "strange"))
	if err != nil || len(entries) != len(names) {
		w.t.Errorf("there are %d files, not %d (%v)", len(entries), len(names), err)
	}
	for _, name := range names {
		w.must(os.Remove(in(from, "strange/"+name)))
	}
	w.leaves("strange/"+names[0], to)
	w.eventually(func() error {
		if entries, err := os.ReadDir(in(to, "strange")); err != nil || len(entries) != 0 {
			return fmt.Errorf("%v (%v)", entries, err)
		}
		return nil
	})
}

// a becomes A, and both can be there.
func changeOfCase(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	w.put(from, "case.pem.txt", "one")
	w.arrives("case.pem.txt", "one", to)
	w.must(os.Rename(in(from, "case.pem.txt"), in(from, "CASE.pem.txt")))
	w.arrives("CASE.pem.txt", "one", to)
	w.leaves("case.pem.txt", to)
	w.put(from, "Case.pem.txt", "two")
	w.arrives("Case.pem.txt", "two", to)
	w.has(to, "CASE.pem.txt", "one")
}

// A path beyond what is supported stays here, and is named; its neighbours travel.
func tooLongAPath(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	component := strings.Repeat("d", 250)
	w.must(os.Mkdir(in(from, "long"), 0o755))
	dir, err := os.OpenRoot(in(from, "long"))
	w.must(err)
	for range 20 { // step by step, for no system call takes 4,096 bytes of path
		w.must(dir.Mkdir(component, 0o755))
		deeper, err := dir.OpenRoot(component)
		w.must(errors.Join(err, dir.Close()))
		dir = deeper
	}
	w.must(dir.WriteFile("file", []byte("deep"), 0o644))
	w.must(dir.Close())
	w.await(reports(control.NameRefused, from, "long/"))
	w.put(from, "long/"+component+"/short", "this one is fine")
	w.arrives("long/"+component+"/short", "this one is fine", to)
	w.must(os.RemoveAll(in(from, "long")))
	w.leaves("long", to)
	w.await(quiet(control.NameRefused))
}

// What is no file, directory or link stays here, and is named.
func pipesAndDevices(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	w.must(os.Mkdir(in(from, "odd"), 0o755))
	w.must(syscall.Mkfifo(in(from, "odd/pipe"), 0o644))
	socket, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	w.must(err)
	defer syscall.Close(socket)
	w.must(syscall.Bind(socket, &syscall.SockaddrUnix{Name: in(from, "odd/socket")}))
	kinds := []string{"odd/pipe", "odd/socket"}
	if os.Geteuid() == 0 {
		w.must(syscall.Mknod(in(from, "odd/device"), syscall.S_IFCHR|0o644, 1<<8|3)) // /dev/null
		kinds = append(kinds, "odd/device")
	}
	for _, name := range kinds {
		w.await(reports(control.NameRefused, from, name))
	}
	w.witness(from, to)
	for _, name := range kinds {
		w.never(name, to)
		w.must(os.Remove(in(from, name)))
	}
	w.await(quiet(control.NameRefused))
}

// A file above max_file_size stays here, and is named; the version before it stays there. Made smaller, it travels.
func tooLarge(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	w.put(from, "large", "small yet")
	w.arrives("large", "small yet", to)
	w.put(from, "large", strings.Repeat("x", 1<<20+1))
	w.await(reports(control.NameRefused, from, "large"))
	w.witness(from, to)
	w.has(to, "large", "small yet")
	exactly := strings.Repeat("y", 1<<20)
	w.put(from, "large", exactly)
	w.arrives("large", exactly, to)
	w.await(quiet(control.NameRefused))
}

// What matches ignore: neither goes nor is deleted, and links to it do not go either.
func ignored(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	defer func() { w.must(os.Remove(in(from, "ignored/site.bak"))) }()
	w.put(from, "ignored/site.bak", "here only")
	w.put(from, "private/deep/key", "here only")
	w.put(to, "private/deep/key", "there only")
	w.put(from, "ignored/private/key", "the glob with a slash is of the whole path")
	w.arrives("ignored/private/key", "the glob with a slash is of the whole path", to)
	w.witness(from, to)
	w.never("ignored/site.bak", to)
	w.has(to, "private/deep/key", "there only")
	w.must(os.RemoveAll(in(from, "private")))
	w.witness(from, to)
	w.has(to, "private/deep/key", "there only")
	w.must(os.RemoveAll(in(to, "private")))
}

// Bits that make a file more than a file are dropped, and that is said.
func specialBits(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	defer func() { w.must(os.RemoveAll(in(from, "special"))) }()
	w.put(from, "special/program", "#!/bin/sh")
	for name, mode := range map[string]uint32{"special/program": 0o6755, "special": 0o3755} {
		w.must(syscall.Chmod(in(from, name), mode))
		w.await(reports("", from, name)) // CONTRACT does not say under which code
	}
	w.arrives("special/program", "#!/bin/sh", to)
	for _, name := range []string{"special/program", "special"} {
		w.eventually(func() error {
			info, err := os.Lstat(in(to, name))
			if err == nil && (info.Mode().Perm() != 0o755 || info.Mode()&(os.ModeSetuid|os.ModeSetgid|os.ModeSticky) != 0) {
				err = fmt.Errorf("%s is %v", name, info.Mode())
			}
			return err
		})
	}
	for _, name := range []string{"special/program", "special"} {
		w.must(syscall.Chmod(in(from, name), 0o755))
	}
	w.await(quiet())
}

// A directory's mode travels, when it is made and when it changes; what is in it as well.
func directoryModes(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	w.must(os.Mkdir(in(from, "closed"), 0o700))
	w.put(from, "closed/key", "secret")
	w.must(os.Chmod(in(from, "closed/key"), 0o600))
	w.alike(from, to)
	w.must(os.Chmod(in(from, "closed"), 0o711))
	w.alike(from, to)
}

// What a peer lacks is named in status in a way that JSON can carry.
func notUTF8InStatus(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	to.Freeze()
	defer to.Thaw()
	w.put(from, "missing/caf\xe9", "latin-1")
	w.awaitOn(func(all []control.Status) (bool, string) {
		missing := all[0].Peers[0].Missing
		return slices.Contains(missing, "missing/caf%E9"), fmt.Sprintf("%q is missing", missing)
	}, from)
	to.Thaw()
	w.arrives("missing/caf\xe9", "latin-1", to)
}

// Owners travel by name: who has another number here, or none, is no hindrance.
func TestOwners(t *testing.T) {
	t.Parallel()
	need.Root(t)
	w := start(t, real.Config{Addresses: addresses(3), Before: func(n *real.Node) error { return accountsOf(n) }})
	w.await(real.Synced)
	scene(t, w, "a name with another number", func(w *world) {
		w.give("renumbered", 4001, 4001)
		w.eventually(func() error { return owned(in(w.Nodes[1], "renumbered"), 5001, 5001) })
	})
	scene(t, w, "a number without a name", func(w *world) {
		w.give("nameless", 54321, 54321)
		w.eventually(func() error { return owned(in(w.Nodes[1], "nameless"), 54321, 54321) })
	})
	scene(t, w, "a name that is unknown here", func(w *world) {
		w.give("unknown", 4002, 4002)
		w.arrives("unknown", "given away", w.Nodes[1])
		w.await(reports(control.OwnershipFailed, w.Nodes[1], "unknown"))
		info, err := os.Stat(in(w.Nodes[1], "unknown"))
		w.must(err)
		if info.Mode() != 0o600 {
			w.t.Errorf("it is %v", info.Mode())
		}
		for _, name := range []string{"unknown", "renumbered", "nameless"} { // the third node may give nothing away, and says so
			w.must(os.Remove(in(w.Nodes[0], name)))
			w.leaves(name, w.Nodes...)
		}
		w.await(quiet(control.OwnershipFailed))
	})
	scene(t, w, "no right to give files away", func(w *world) {
		w.give("powerless", 33, 33)
		w.arrives("powerless", "given away", w.Nodes[2])
		w.must(owned(in(w.Nodes[2], "powerless"), 65534, 65534))
		w.await(reports(control.OwnershipFailed, w.Nodes[2], "powerless"))
		w.await(directory(w.Nodes[2], control.InSync))
	})
}

// give makes a file on the first node that belongs to somebody.
func (w *world) give(name string, uid, gid int) {
	w.t.Helper()
	from := w.Nodes[0]
	temporary := filepath.Join(from.Dir, "gift")
	w.must(os.WriteFile(temporary, []byte("given away"), 0o600))
	w.must(os.Chown(temporary, uid, gid))
	w.must(os.Rename(temporary, in(from, name)))
}

// accountsOf gives the nodes different accounts: known is 4001 on the first and 5001 on the second, stranger is known on the
// first only. The third runs without privileges.
func accountsOf(n *real.Node) error {
	switch n.Name {
	case "fe1":
		return withAccounts(n, "known:4001", "stranger:4002")
	case "fe2":
		return withAccounts(n, "known:5001")
	}
	return unprivileged(n)
}

// withAccounts shows the agent of n other accounts than this machine has, in a mount namespace of its own.
func withAccounts(n *real.Node, accounts ...string) error {
	passwd, group := "root:x:0:0::/:/bin/sh\n", "root:x:0:\n"
	for _, account := range accounts {
		name, number, _ := strings.Cut(account, ":")
		passwd += fmt.Sprintf("%s:x:%s:%s::/:/bin/false\n", name, number, number)
		group += fmt.Sprintf("%s:x:%s:\n", name, number)
	}
	for file, content := range map[string]string{"passwd": passwd, "group": group} {
		if err := os.WriteFile(filepath.Join(n.Dir, file), []byte(content), 0o644); err != nil {
			return err
		}
	}
	n.Launch = func(agent *exec.Cmd) {
		agent.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
		behind(agent, `mount --bind "$0/passwd" /etc/passwd && mount --bind "$0/group" /etc/group`, n.Dir)
	}
	return nil
}

// behind has a shell prepare the agent's place before it becomes the agent. $0 in the script is the argument.
func behind(agent *exec.Cmd, script, argument string) {
	agent.Args = append([]string{"sh", "-c", script + ` && exec "$@"`, argument, agent.Path}, agent.Args[1:]...)
	agent.Path = "/bin/sh"
}

// unprivileged runs the agent of n as nobody, to whom the node's files are given.
func unprivileged(n *real.Node) error {
	const nobody = 65534
	for _, dir := range []string{filepath.Dir(n.Dir), buildDir} {
		if err := os.Chmod(dir, 0o755); err != nil {
			return err
		}
	}
	n.Launch = func(agent *exec.Cmd) {
		agent.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	return filepath.WalkDir(n.Dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, nobody, nobody)
	})
}
