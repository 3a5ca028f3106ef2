package main

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"time"

	"certswarm/internal/agent/config"
	"certswarm/internal/doctor"

	"github.com/urfave/cli/v2"
)

// nginxTestTime bounds nginx -t, which asks DNS for the names in its configuration.
const nginxTestTime = 30 * time.Second

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name:  "doctor",
		Usage: "looks at what this node needs from its machine and its network (exit 1: something is wrong)",
		Description: "Configuration, daemon, UDP to every peer, clock, inotify, open files, disks, the state directory, nginx. It changes\n" +
			"nothing. Run it as root: others cannot see everything.",
		Action: func(c *cli.Context) error {
			g := globalsOf(c)
			daemon, err := g.dial()
			if err != nil {
				return err
			}
			cfg, wrong := config.LoadWithConfD(g.Config)
			facts := doctor.Examine(c.Context, cfg, wrong, doctor.Probes{
				Status:    daemon.Status,
				TestNginx: testNginx,
			})
			findings := doctor.Judge(facts)
			err = tell(c, findings, func(l look) string { return renderFindings(findings, l) })
			if err == nil && doctor.Worst(findings) != doctor.OK {
				err = &exitError{code: 1} // the findings say it all
			}
			return err
		},
	}
}

// testNginx runs nginx -t.
func testNginx(ctx context.Context, c config.Nginx) (refused string, err error) {
	ctx, cancel := context.WithTimeout(ctx, nginxTestTime)
	defer cancel()
	args := []string{"-t"}
	if c.Prefix != "" {
		args = append(args, "-p", c.Prefix)
	}
	if c.Config != "" {
		args = append(args, "-c", c.Config)
	}
	output, err := exec.CommandContext(ctx, c.Binary, args...).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		return strings.TrimSpace(string(output)), nil
	}
	return "", err
}

// renderFindings is the page of `doctor`: what needs a person comes last, where the eye is.
func renderFindings(findings []doctor.Finding, look look) string {
	p := page{look: look}
	for _, level := range []doctor.Level{doctor.OK, doctor.Unknown, doctor.Warn, doctor.Error} {
		colour := map[doctor.Level]paint{doctor.OK: green, doctor.Warn: yellow, doctor.Error: red}[level]
		for _, f := range findings {
			if f.Level != level {
				continue
			}
			label := painted(string(level)+strings.Repeat(" ", len(doctor.Unknown)-len(level)), colour)
			p.line("%s  %s: %s", p.dress(label), printable(f.What), printable(f.Text))
			if f.Next != "" {
				p.line("         next  %s", printable(f.Next))
			}
		}
	}
	return p.lines.String()
}
