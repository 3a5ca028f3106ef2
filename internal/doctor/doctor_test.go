package doctor

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"certswarm/internal/control"
)

// well is a machine with which nothing is wrong.
func well() Facts {
	return Facts{
		Status: &control.Status{Node: control.Node{Name: "fe1", Version: "1"}},
		Peers:  []Peer{{"fe2", "10.0.0.2:7443", true, Answered}}, ClockSeen: true,
		Watches: 10, WatchLimit: 8192, OpenFiles: 20, FileLimit: 1024,
		Disks: []Disk{{Path: "/certs", Free: 10 << 30, Size: 20 << 30, FreeInodes: 1000, Inodes: 2000}},
		State: &StateDir{Path: "/state", Mode: 0o700 | fs.ModeDir, Key: 0o600},
		Nginx: &Nginx{Tested: true, Running: true},
	}
}

func TestJudge(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Facts)
		level  Level
		what   string
		text   string // a part
		next   string // a part
	}{
		"configuration": {func(f *Facts) { f.Config = "a.yaml:1:1: no" }, Error, "configuration", "a.yaml:1:1: no", "config check"},
		"no daemon":     {func(f *Facts) { f.Status, f.Daemon = nil, errors.New("no daemon answers") }, Error, "daemon", "no daemon answers", "systemctl status"},
		"its problems": {func(f *Facts) {
			f.Status.Problems = []control.Problem{{Code: control.ClockSkew, Severity: control.Error, Node: "fe2", Text: "3 h ahead", Next: "timedatectl"}}
		}, Error, "problem", "on fe2, clock-skew: 3 h ahead", "timedatectl"},
		"its warnings": {func(f *Facts) {
			f.Status.Problems = []control.Problem{{Code: control.HeldFile, Severity: control.Warn, Node: "fe1"}}
		}, Warn, "problem", "held-file", ""},
		"UDP is blocked":      {func(f *Facts) { f.Peers[0] = Peer{"fe2", "10.0.0.2:7443", false, Silent} }, Error, "peer fe2", "UDP from here to 10.0.0.2:7443 is not answered", "on fe2: certswarm doctor"},
		"no agent there":      {func(f *Facts) { f.Peers[0] = Peer{"fe2", "10.0.0.2:7443", false, Refused} }, Error, "peer fe2", "nobody listens", "on fe2: systemctl"},
		"one way":             {func(f *Facts) { f.Peers[0].Answer = Silent }, Warn, "peer fe2", "it came to this node", "10.0.0.2:7443"},
		"another key":         {func(f *Facts) { f.Peers[0].Connected = false }, Warn, "peer fe2", "there is no session", "certswarm status"},
		"a name unknown":      {func(f *Facts) { f.Peers[0] = Peer{Name: "fe2"} }, Unknown, "peer fe2", "could not be asked", ""},
		"the clock":           {func(f *Facts) { f.Unsynced = true }, Warn, "clock", "nothing keeps it right", "timedatectl"},
		"an unseen clock":     {func(f *Facts) { f.ClockSeen = false }, Unknown, "clock", "cannot be seen", ""},
		"many watches":        {func(f *Facts) { f.Watches = 5000 }, Warn, "inotify", "5000 directories", "max_user_watches=20000"},
		"too many watches":    {func(f *Facts) { f.Watches = 8192 }, Error, "inotify", "8192 directories", "max_user_watches"},
		"many files":          {func(f *Facts) { f.OpenFiles = 600 }, Warn, "open files", "600 open, of 1024", "LimitNOFILE"},
		"unseen files":        {func(f *Facts) { f.FileLimit, f.FilesFailed = 0, fs.ErrPermission }, Unknown, "open files", "cannot be read", "root"},
		"little space":        {func(f *Facts) { f.Disks[0].Free = 50 << 20 }, Warn, "disk of /certs", "50 MiB", "df -h /certs"},
		"hardly any space":    {func(f *Facts) { f.Disks[0].Free = 5 << 20 }, Error, "disk of /certs", "5 MiB", "df -h /certs"},
		"no inodes":           {func(f *Facts) { f.Disks[0].FreeInodes = 0 }, Error, "disk of /certs", "0 inodes", "df -i"},
		"no directory":        {func(f *Facts) { f.Disks[0].Err = fs.ErrNotExist }, Error, "disk of /certs", "not exist", "ls -ld"},
		"an open state":       {func(f *Facts) { f.State.Mode = 0o755 }, Error, "state directory", "mode 0755", "chmod 0700 /state"},
		"an open key":         {func(f *Facts) { f.State.Key = 0o640 }, Error, "state directory", "mode 0640", "chmod 0600 /state/identity.pem"},
		"no key":              {func(f *Facts) { f.State.Key = 0 }, Error, "state directory", "no key", "identity generate --state-dir /state"},
		"no state":            {func(f *Facts) { f.State = &StateDir{Path: "/state", Missing: true} }, Error, "state directory", "there is no /state", "certswarm identity generate --state-dir /state"},
		"another's state":     {func(f *Facts) { f.State.Daemon = 33 }, Error, "state directory", "user 33", "chown"},
		"an unseen state":     {func(f *Facts) { f.State, f.StateFailed = nil, fs.ErrPermission }, Unknown, "state directory", "permission", "root"},
		"nginx refuses":       {func(f *Facts) { f.Nginx.Refused = "[emerg] x" }, Error, "nginx", "[emerg] x", "nginx -t"},
		"no nginx":            {func(f *Facts) { f.Nginx.Failed = errors.New("not found") }, Error, "nginx", "not found", ""},
		"nginx was not asked": {func(f *Facts) { f.Nginx.Tested = false }, Unknown, "nginx", "only root", "root"},
		"nginx cannot read":   {func(f *Facts) { f.Nginx.User, f.Nginx.Unreadable = 33, []string{"a", "b"} }, Error, "nginx", "user 33, which cannot read a (2 such files)", "owner:"},
	} {
		t.Run(name, func(t *testing.T) {
			f := well()
			test.change(&f)
			findings := Judge(f)
			found := false
			for _, got := range findings {
				found = found || got.Level == test.level && got.What == test.what && strings.Contains(got.Text, test.text) && strings.Contains(got.Next, test.next)
				if (got.Level == Warn || got.Level == Error) && got.Next == "" && test.what != "problem" {
					t.Errorf("nothing to do about %+v", got)
				}
			}
			if !found {
				t.Errorf("%+v", findings)
			}
			want := test.level
			if want == Unknown {
				want = OK
			}
			if worst := Worst(findings); worst != want {
				t.Errorf("the worst is %s", worst)
			}
		})
	}
	for _, f := range Judge(well()) {
		if f.Level != OK {
			t.Errorf("a machine that is well: %+v", f)
		}
	}
}

// Where it is not for want of rights that something was not seen, root sees no more; and a daemon that is not there has no files.
func TestRootIsSentForOnlyWhereItHelps(t *testing.T) {
	f := well()
	f.FileLimit, f.FilesFailed = 0, fs.ErrNotExist
	f.State, f.StateFailed = nil, errors.New("input/output error")
	unknown := 0
	for _, got := range Judge(f) {
		if got.Level == Unknown {
			unknown++
		}
		if got.Next != "" {
			t.Errorf("%+v", got)
		}
	}
	if unknown != 2 {
		t.Errorf("%d things could not be seen, not 2", unknown)
	}
	f.Status, f.Daemon = nil, errors.New("no daemon answers")
	for _, got := range Judge(f) {
		if got.What == "open files" {
			t.Errorf("without a daemon: %+v", got)
		}
	}
}
