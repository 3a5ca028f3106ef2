// Package systemd_test has systemd's own programs read the files of this folder, as they would once installed. It needs
// no running systemd and no rights.
package systemd_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"certswarm/internal/need"
)

// program is where the unit expects certswarm; `make install` puts its own prefix there.
const program = "/usr/bin/certswarm"

func TestUnitsAreUnderstood(t *testing.T) {
	analyze := need.Tool(t, "systemd-analyze")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	unit := read(t, "certswarm.service")
	if !bytes.Contains(unit, []byte("ExecStart="+program+" run\n")) {
		t.Errorf("certswarm.service does not run %s", program)
	}
	// systemd-analyze wants programs that exist: any will do.
	write(t, filepath.Join(dir, "certswarm.service"), bytes.ReplaceAll(unit, []byte(program), []byte(self)))
	// The drop-in is read as part of the unit that it is for, and is the only part here that could be wrong.
	write(t, filepath.Join(dir, "nginx.service"), []byte("[Service]\nExecStart="+self+"\n"))
	write(t, filepath.Join(dir, "nginx.service.d", "certswarm.conf"), read(t, "nginx.service.d/certswarm.conf"))

	for _, unit := range []string{"certswarm.service", "nginx.service"} {
		// What is said of this machine's own units, which ours name, is not our business. What is unknown is only
		// warned of, so that silence is the test, not the exit status.
		output, err := exec.Command(analyze, "verify", "--man=no", filepath.Join(dir, unit)).CombinedOutput()
		for line := range strings.Lines(string(output)) {
			if strings.Contains(line, dir) || strings.HasPrefix(line, unit) {
				t.Errorf("%s: %s", unit, strings.TrimSpace(line))
			}
		}
		if err != nil {
			t.Errorf("%s: systemd-analyze verify: %v\n%s", unit, err, output)
		}
	}
}

// TestTheAgentsRights: each has its reason beside it, and none that the agent lives by is missing. What happens without one shows only in use.
func TestTheAgentsRights(t *testing.T) {
	unit := string(read(t, "certswarm.service"))
	var given, explained []string
	for line := range strings.Lines(unit) {
		if list, ok := strings.CutPrefix(line, "CapabilityBoundingSet="); ok {
			given = append(given, strings.Fields(list)...)
		}
		if text, ok := strings.CutPrefix(line, "#   CAP_"); ok {
			names, _, _ := strings.Cut("CAP_"+text, "  ")
			explained = append(explained, strings.Fields(names)...)
		}
	}
	slices.Sort(given)
	slices.Sort(explained)
	if len(given) == 0 || !slices.Equal(given, explained) {
		t.Errorf("the unit gives %v and explains %v", given, explained)
	}
	for right, why := range map[string]string{
		"CAP_CHOWN":            "replicated files belong to whom they belong elsewhere",
		"CAP_FOWNER":           "modes and times of files of other owners are set",
		"CAP_DAC_OVERRIDE":     "keys and directories of other owners are read and written",
		"CAP_LEASE":            "the kernel says whether a file is open for writing (fcntl(2), F_SETLEASE) to its owner and to who has this: root alone is refused, and half of a file would be replicated",
		"CAP_NET_BIND_SERVICE": "nginx -t binds ports below 1024",
		"CAP_KILL":             "a master of nginx that is not root is told to reload",
	} {
		if !slices.Contains(given, right) {
			t.Errorf("the unit does not give %s: %s", right, why)
		}
	}
	if !strings.Contains(unit, "\nUser=root\n") || !strings.Contains(unit, "\nAmbientCapabilities=\n") {
		t.Error("what is in the bounding set is what the agent has only where it is root; who is not needs it in AmbientCapabilities= too")
	}
}

// TestAccountsAndDirectoriesFit lets sysusers.d make the accounts of an empty root, and tmpfiles.d look them up there.
func TestAccountsAndDirectoriesFit(t *testing.T) {
	sysusers, tmpfiles := need.Tool(t, "systemd-sysusers"), need.Tool(t, "systemd-tmpfiles")
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, sysusers, "--root="+root, path(t, "sysusers.d/certswarm.conf"))
	for _, file := range []string{"passwd", "group"} {
		text, err := os.ReadFile(filepath.Join(root, "etc", file))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(text, []byte("certswarm:")) {
			t.Errorf("sysusers.d made no certswarm in etc/%s: %q", file, text)
		}
	}
	// --clean reads every line and, none of them having an age, does nothing: --create would have to be root.
	run(t, tmpfiles, "--clean", "--root="+root, path(t, "tmpfiles.d/certswarm.conf"))
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if output, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Errorf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, output)
	}
}

func path(t *testing.T, name string) string {
	t.Helper()
	absolute, err := filepath.Abs(name) // a relative one would be looked for in /usr/lib
	if err != nil {
		t.Fatal(err)
	}
	return absolute
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func write(t *testing.T, name string, text []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, text, 0o644); err != nil {
		t.Fatal(err)
	}
}
