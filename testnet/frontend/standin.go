package frontend

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	standinProduct = "certswarm-standin"
	standinVersion = "1.0"
)

// invocation is nginx's command line.
type invocation struct {
	prefix, config string
	globals        string // -g: directives that stand before the file's own
	signal         string // -s
	test, dump     bool   // -t, -T
	quiet          bool   // -q
	version, build bool   // -v, -V
}

// signals are what -s can ask for. The stand-in keeps its logs open for as long as it lives: there is no `reopen`.
var signals = map[string]syscall.Signal{
	"reload": syscall.SIGHUP,
	"quit":   syscall.SIGQUIT,
	"stop":   syscall.SIGTERM,
}

// StandinMain is the main of an executable that plays nginx; args are the arguments after the word Standin. It knows
// nginx's -v -V -t -T -q -s -c -p -g and -e, answers on the same streams in the same words, and returns the exit
// status. Without -v, -t or -s it serves in the foreground until SIGQUIT (finish what is being answered), SIGTERM or
// SIGINT; SIGHUP makes it read configuration and certificates again and keep the old ones if the new are no good.
func StandinMain(args []string, stdout, stderr io.Writer) int {
	call, err := parseArguments(args)
	if err == nil {
		err = call.run(stdout, stderr)
	}
	if err == nil {
		return 0
	}
	_, _ = fmt.Fprintf(stderr, "nginx: [emerg] %v\n", err) // there is nowhere else to say it
	if call.test {
		_, _ = fmt.Fprintf(stderr, "nginx: configuration file %s test failed\n", call.config)
	}
	return 1
}

func (call invocation) run(stdout, stderr io.Writer) error {
	if call.version || call.build {
		text := fmt.Sprintf("nginx version: %s/%s\n", standinProduct, standinVersion)
		if call.build {
			text += fmt.Sprintf("configure arguments: --prefix=%s --conf-path=%s --pid-path=%s\n",
				call.prefix, call.config, filepath.Join(call.prefix, "nginx.pid"))
		}
		_, err := io.WriteString(stderr, text)
		return err
	}
	site, err := call.load()
	if err != nil {
		return err
	}
	switch {
	case call.test:
		return call.report(site, stdout, stderr)
	case call.signal != "":
		return send(signals[call.signal], site.pidFile)
	}
	return serve(site, call.load)
}

// report is the end of a test that was passed.
func (call invocation) report(site *site, stdout, stderr io.Writer) error {
	if !call.quiet {
		_, err := fmt.Fprintf(stderr, "nginx: the configuration file %[1]s syntax is ok\nnginx: configuration file %[1]s test is successful\n", call.config)
		if err != nil {
			return err
		}
	}
	if !call.dump {
		return nil
	}
	_, err := fmt.Fprintf(stdout, "# configuration file %s:\n%s\n", call.config, site.text)
	return err
}

// load reads the configuration and all that it names, as far as nginx does that before it serves.
func (call invocation) load() (*site, error) {
	text, err := os.ReadFile(call.config)
	if err != nil {
		return nil, fmt.Errorf("open() %q failed: %w", call.config, err)
	}
	globals, err := parseConfig("command line", call.globals)
	if err != nil {
		return nil, err
	}
	directives, err := parseConfig(call.config, string(text))
	if err != nil {
		return nil, err
	}
	site, err := compile(append(globals, directives...), call.prefix)
	if err != nil {
		return nil, fmt.Errorf("%w in %s", err, call.config)
	}
	site.text = string(text)
	return site, nil
}

func send(signal syscall.Signal, pidFile string) error {
	pid, err := readPid(pidFile)
	if err != nil {
		return fmt.Errorf("invalid PID: %w", err)
	}
	if err := syscall.Kill(pid, signal); err != nil {
		return fmt.Errorf("kill(%d, %v) failed: %w", pid, signal, err)
	}
	return nil
}

// parseArguments reads nginx's dialect: single letters that may share a dash, values attached or apart, the last wins.
func parseArguments(args []string) (invocation, error) {
	var call invocation
	var ignored string
	values := map[rune]*string{'p': &call.prefix, 'c': &call.config, 'g': &call.globals, 's': &call.signal, 'e': &ignored}
	for i := 0; i < len(args); i++ {
		letters, ok := strings.CutPrefix(args[i], "-")
		if !ok || letters == "" {
			return call, fmt.Errorf("invalid option: %q", args[i])
		}
	letter:
		for at, letter := range letters {
			switch letter {
			case 'v':
				call.version = true
			case 'V':
				call.build = true
			case 't':
				call.test = true
			case 'T':
				call.test, call.dump = true, true
			case 'q':
				call.quiet = true
			default:
				value := values[letter]
				if value == nil {
					return call, fmt.Errorf("invalid option: %q", letter)
				}
				if *value = letters[at+1:]; *value == "" {
					if i++; i == len(args) {
						return call, fmt.Errorf("option %q requires a parameter", letter)
					}
					*value = args[i]
				}
				break letter
			}
		}
	}
	return call.resolved()
}

func (call invocation) resolved() (invocation, error) {
	if call.signal != "" && signals[call.signal] == 0 {
		return call, fmt.Errorf("invalid option: \"-s %s\"", call.signal)
	}
	if call.version || call.build {
		return call, nil
	}
	if call.prefix == "" || call.config == "" {
		return call, errors.New("the stand-in has no compiled-in paths: it needs -p PREFIX and -c FILE")
	}
	if !filepath.IsAbs(call.config) {
		call.config = filepath.Join(call.prefix, call.config)
	}
	return call, nil
}
