package main

import (
	"fmt"
	"strings"
	"time"

	"certswarm/internal/control"

	"github.com/urfave/cli/v2"
)

// The exit codes of a monitoring plugin (Nagios Plugin Development Guidelines, 2.3).
const (
	pluginOK       = 0
	pluginWarning  = 1
	pluginCritical = 2
	pluginUnknown  = 3
)

var pluginStates = [...]string{"OK", "WARNING", "CRITICAL", "UNKNOWN"}

func checkCommand() *cli.Command {
	return &cli.Command{
		Name:  "check",
		Usage: "is a Nagios plugin: one line and perfdata (exit 0: no problem, 1: a warning, 2: an error, 3: no daemon)",
		Action: func(c *cli.Context) error {
			code, line := pluginUnknown, ""
			status, err := statusOf(c)
			if err != nil {
				line = pluginLine(pluginUnknown, err.Error())
			} else {
				code, line = pluginVerdict(status, time.Now())
			}
			err = tellLine(c, map[string]any{"exit": code, "line": line}, line)
			if err == nil && code != pluginOK {
				err = &exitError{code: code} // the line says it all
			}
			return err
		},
	}
}

// statusOf asks once how things stand.
func statusOf(c *cli.Context) (control.Status, error) {
	daemon, err := dialOf(c)
	if err != nil {
		return control.Status{}, err
	}
	return daemon.Status(c.Context)
}

// pluginVerdict judges a status: the worst problem decides, and the first of that severity is told.
func pluginVerdict(s control.Status, now time.Time) (code int, line string) {
	var worst *control.Problem
	errors, warnings := 0, 0
	for i, p := range s.Problems {
		if p.Severity == control.Warn {
			warnings++
		} else {
			errors++
		}
		if worst == nil || worst.Severity == control.Warn && p.Severity != control.Warn {
			worst = &s.Problems[i]
		}
	}
	code = pluginOK
	said := fmt.Sprintf("%s has %d of %s connected", s.Node.Name, connected(s.Peers), count(len(s.Peers), "peer"))
	if worst != nil {
		code = pluginCritical
		if worst.Severity == control.Warn {
			code = pluginWarning
		}
		said = fmt.Sprintf("%s, %s: %s on %s: %s", count(errors, "error"), count(warnings, "warning"), worst.Code, nodeOf(*worst), worst.Text)
	}
	return code, pluginLine(code, said) + " | " + perfdata(s, errors, warnings, now)
}

// pluginLine is what a monitoring system shows. A bar would begin the perfdata.
func pluginLine(code int, said string) string {
	return fmt.Sprintf("CERTSWARM %s - %s", pluginStates[code], strings.ReplaceAll(printable(said), "|", "/"))
}

// perfdata is label=value[unit];[warn];[crit];[min];[max] for each figure (Nagios Plugin Development Guidelines, 2.6).
func perfdata(s control.Status, errors, warnings int, now time.Time) string {
	behind, files := 0, 0
	for _, p := range s.Peers {
		behind += p.Behind
	}
	for _, d := range s.Directories {
		files += d.Files
	}
	out := fmt.Sprintf("errors=%d;;0;0 warnings=%d;0;;0 peers=%d;;;0;%d unconfirmed=%d;;;0 files=%d;;;0",
		errors, warnings, connected(s.Peers), len(s.Peers), behind, files)
	var first time.Time
	for _, c := range s.Certificates {
		if !c.NotAfter.IsZero() && (first.IsZero() || c.NotAfter.Before(first)) {
			first = c.NotAfter.Time
		}
	}
	if !first.IsZero() {
		out += fmt.Sprintf(" expires=%ds", int64(first.Sub(now)/time.Second))
	}
	return out
}
