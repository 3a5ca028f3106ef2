package nginx

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Runner is the edge to the nginx binary: what may be asked of it, and nothing else. Starting and stopping are absent
// on purpose. It may be used from several goroutines.
//
// Test and Reload return nil when nginx exited with status 0, which for Reload proves only that a signal was sent. They
// return a *Refusal when nginx ran and said no, and any other error when it could not be run to its end: then nothing is
// known. Everything obeys the end of its context within a second.
type Runner interface {
	// Running reports whether a live master process is behind the pid file that the configuration names. No pid file,
	// an empty one and one of a dead process are no error: nginx is down.
	Running(ctx context.Context) (bool, error)
	// Test is nginx -T: the test of nginx -t, and when it passes what was read, includes and all.
	Test(ctx context.Context) (dump string, err error)
	// Reload is nginx -s reload.
	Reload(ctx context.Context) error
}

// Refusal is nginx saying no.
type Refusal struct{ Output string }

// Error returns nginx's own line: the first at level error or worse.
func (r *Refusal) Error() string {
	last := "nginx failed without a word"
	for line := range strings.Lines(r.Output) {
		line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "nginx: "))
		for _, level := range []string{"[emerg]", "[alert]", "[crit]", "[error]"} {
			if strings.Contains(line, level) {
				return line
			}
		}
		if line != "" {
			last = line
		}
	}
	return last
}

// Exec runs the real nginx, as this process's user. It must not be copied after its first use.
type Exec struct {
	Binary     string // "" is nginx, found in PATH
	ConfigFile string // -c; "" is the compiled-in default
	Prefix     string // -p; "" is the compiled-in default

	mu      sync.Mutex
	built   builtin     // guarded by mu
	builtAs os.FileInfo // guarded by mu: the binary that says so; nil: none was asked
}

// builtin is where a binary looks unless it is told otherwise.
type builtin struct{ prefix, config, pid string }

const (
	execTime  = 30 * time.Second // a test resolves the host names in the configuration: slow resolvers, not slow nginx
	talkLimit = 64 << 10         // bytes kept of what nginx says
	dumpLimit = 64 << 20         // bytes kept of a configuration; one that is larger cannot be understood
)

// Test implements Runner.
func (x *Exec) Test(ctx context.Context) (string, error) { return x.run(ctx, dumpLimit, "-T") }

// Reload implements Runner.
func (x *Exec) Reload(ctx context.Context) error {
	_, err := x.run(ctx, talkLimit, "-s", "reload")
	return err
}

// Running implements Runner. It runs nothing but nginx -V, and that once for each binary: it neither reads nor creates files, whereas nginx -t as
// root makes pid and log files, and has no business doing so where nginx never ran.
func (x *Exec) Running(ctx context.Context) (bool, error) {
	file, err := x.pidFile(ctx)
	if err != nil {
		return false, fmt.Errorf("nginx's pid file cannot be found: %w", err)
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("nginx's pid file cannot be read: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 0 {
		return false, nil
	}
	return x.isMaster(pid), nil
}

// isMaster guards against a stale pid file whose number went to somebody else: a reload would send him SIGHUP.
func (x *Exec) isMaster(pid int) bool {
	if err := syscall.Kill(pid, 0); err != nil && !errors.Is(err, syscall.EPERM) {
		return false
	}
	line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return os.IsPermission(err) // it lives, and is hidden from us
	}
	title, _, _ := strings.Cut(string(line), "\x00") // "nginx: master process …", or the bare command with "master_process off"
	command := filepath.Base(title)
	return strings.Contains(title, ": master process ") || command == "nginx" || command == filepath.Base(x.binary())
}

// pidFile finds the pid directive in the main configuration file, else the compiled-in default.
func (x *Exec) pidFile(ctx context.Context) (string, error) {
	built, err := x.builtin(ctx)
	if err != nil {
		return "", err
	}
	prefix, config, pid := cmp.Or(x.Prefix, built.prefix), cmp.Or(x.ConfigFile, built.config), built.pid
	under := func(path string) string {
		if filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(prefix, path)
	}
	text, err := os.ReadFile(under(config))
	if err != nil {
		return "", err
	}
	for _, d := range parseFile(config, string(text)) {
		if d.name == "pid" && len(d.args) == 1 {
			pid = d.args[0]
		}
	}
	return under(pid), nil
}

// builtin asks the binary, anew if it is another one than the last time: a package upgrade puts a new file in its place.
func (x *Exec) builtin(ctx context.Context) (builtin, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	path, err := exec.LookPath(x.binary())
	if err != nil {
		return builtin{}, err
	}
	is, err := os.Stat(path)
	if err != nil {
		return builtin{}, err
	}
	if was := x.builtAs; was != nil && os.SameFile(was, is) && was.ModTime().Equal(is.ModTime()) && was.Size() == is.Size() {
		return x.built, nil
	}
	output, err := x.execute(ctx, talkLimit, "-V")
	if err != nil {
		return builtin{}, err
	}
	x.built, x.builtAs = parseBuiltin(output.talk), is
	return x.built, nil
}

// parseBuiltin reads the configure arguments that nginx -V prints.
func parseBuiltin(talk string) (b builtin) {
	for _, flag := range strings.Split(talk, " --") {
		name, value, _ := strings.Cut(strings.TrimSpace(flag), "=")
		switch name {
		case "prefix":
			b.prefix = value
		case "conf-path":
			b.config = value
		case "pid-path":
			b.pid = value
		}
	}
	return b
}

func (x *Exec) binary() string {
	if x.Binary == "" {
		return "nginx"
	}
	return x.Binary
}

// run runs nginx with the operator's -p and -c and returns its standard output.
func (x *Exec) run(ctx context.Context, limit int, args ...string) (string, error) {
	if x.Prefix != "" {
		args = append(args, "-p", x.Prefix)
	}
	if x.ConfigFile != "" {
		args = append(args, "-c", x.ConfigFile)
	}
	output, err := x.execute(ctx, limit, args...)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() && ctx.Err() == nil {
		return "", &Refusal{Output: output.talk}
	}
	if err == nil && output.cut {
		err = fmt.Errorf("its output has more than %d bytes", limit)
	}
	if err != nil {
		return "", fmt.Errorf("%s %s could not be run: %w", x.binary(), strings.Join(args, " "), err)
	}
	return output.data, nil
}

// output is what a process wrote: data on standard output, talk on standard error.
type output struct {
	data, talk string
	cut        bool // data is not whole
}

// execute runs the binary in a process group of its own, which the end of ctx kills as a whole.
func (x *Exec) execute(ctx context.Context, limit int, args ...string) (output, error) {
	ctx, cancel := context.WithTimeout(ctx, execTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, x.binary(), args...)
	data, talk := bounded{limit: limit}, bounded{limit: talkLimit}
	cmd.Stdout, cmd.Stderr = &data, &talk
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return output{data: data.kept.String(), talk: talk.kept.String(), cut: data.cut}, err
}

// bounded keeps the first limit bytes and swallows the rest, so that the writer never blocks. The buffer is not embedded:
// its ReadFrom would let io.Copy pass the limit by.
type bounded struct {
	kept  bytes.Buffer
	limit int
	cut   bool
}

func (b *bounded) Write(p []byte) (int, error) {
	keep := min(len(p), b.limit-b.kept.Len())
	b.cut = b.cut || keep < len(p)
	_, _ = b.kept.Write(p[:keep]) // a bytes.Buffer does not fail
	return len(p), nil
}
