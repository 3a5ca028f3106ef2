package main

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"certswarm/internal/agent/config"
	"certswarm/internal/control"

	"github.com/urfave/cli/v2"
)

// globals are the flags that every command takes, before or after its name.
type globals struct {
	Config, Socket string
	JSON, NoColor  bool
	Doubt          string // why Socket may be the wrong one
	Refused        string // why no daemon may be asked: which one is meant was said, and cannot be known
}

// dial returns a client of the daemon.
func (g globals) dial() (*control.Client, error) {
	if g.Refused != "" {
		return nil, fail(exitUsage, "%s", g.Refused)
	}
	return control.Dial(g.Socket).Guessed(g.Doubt), nil
}

const globalCategory = "Global:"

// globalFlags returns fresh flags: each command parses its own.
func globalFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "config", Usage: "configuration `FILE`; conf.d/*.yaml beside it is read too", DefaultText: config.DefaultFile, Category: globalCategory},
		&cli.StringFlag{Name: "socket", Usage: "control socket `FILE` of the daemon", DefaultText: "control_socket of the configuration", Category: globalCategory},
		&cli.BoolFlag{Name: "json", Usage: "print JSON", DisableDefaultText: true, Category: globalCategory},
		&cli.BoolFlag{Name: "no-color", Usage: "print without colors", DisableDefaultText: true, Category: globalCategory},
	}
}

// globalsOf returns the global flags as they stand for c: the one nearest to the end of the line counts.
func globalsOf(c *cli.Context) globals {
	g := globals{Config: config.DefaultFile}
	var configSaid, socketSaid bool
	lineage := c.Lineage()
	for i := len(lineage) - 1; i >= 0; i-- {
		at := lineage[i]
		if at.IsSet("config") {
			g.Config, configSaid = at.String("config"), true
		}
		if at.IsSet("socket") {
			g.Socket, socketSaid = at.String("socket"), true
		}
		if at.IsSet("json") {
			g.JSON = at.Bool("json")
		}
		if at.IsSet("no-color") {
			g.NoColor = at.Bool("no-color")
		}
	}
	switch {
	case socketSaid && g.Socket == "":
		g.Refused = "--socket is empty; name the daemon's socket, or leave it out"
	case socketSaid:
	case configSaid && g.Config == "":
		g.Refused = "--config is empty; name a file, or leave it out"
	case configSaid && missing(g.Config):
		g.Refused = printable(g.Config) + ": no such file; name the daemon's socket with --socket"
	default:
		g.find()
	}
	return g
}

// dialOf returns a client of the daemon that c is for.
func dialOf(c *cli.Context) (*control.Client, error) { return globalsOf(c).dial() }

// find looks into the configuration for the socket.
func (g *globals) find() {
	var err error
	if g.Socket, err = config.ControlSocketOf(g.Config); err != nil {
		g.Doubt = err.Error()
	}
}

// missing reports whether there is certainly no such file.
func missing(file string) bool {
	_, err := os.Stat(file)
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// withGlobals gives command, and what is below it, the global flags and the program's answer to wrong usage: a command
// without ArgsUsage takes no arguments. Doing so twice is doing it once.
func withGlobals(command *cli.Command) *cli.Command {
	for _, flag := range globalFlags() {
		if !hasFlag(command, flag.Names()[0]) {
			command.Flags = append(command.Flags, flag)
		}
	}
	command.OnUsageError = usageError
	command.HideHelpCommand = true
	if len(command.Subcommands) > 0 && command.Action == nil {
		command.Action = unknownCommand
	} else if command.ArgsUsage == "" && len(command.Subcommands) == 0 {
		command.Before = noArguments
	}
	for _, below := range command.Subcommands {
		withGlobals(below)
	}
	return command
}

func hasFlag(command *cli.Command, name string) bool {
	for _, flag := range command.Flags {
		for _, known := range flag.Names() {
			if known == name {
				return true
			}
		}
	}
	return false
}
