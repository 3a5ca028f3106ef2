package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// exitUsage is the exit code of a command line that says something impossible.
const exitUsage = 2

// flagsFirst returns args with the flags of each command before its arguments, where the flag package looks for them:
// `resume certs --restore` is what people write. Nothing behind -- moves, nor behind the first argument of a command
// that runs another one (its ArgsUsage begins with --). `help COMMAND` becomes `COMMAND --help`.
func flagsFirst(app *cli.App, args []string) []string {
	if len(args) == 0 {
		return []string{app.Name}
	}
	out, rest := args[:1:1], args[1:]
	if len(rest) > 0 && rest[0] == "help" {
		rest = append(rest[1:len(rest):len(rest)], "--help")
	}
	here := &cli.Command{Flags: app.Flags, Subcommands: app.Commands}
	var arguments []string
	for len(rest) > 0 {
		word := rest[0]
		rest = rest[1:]
		switch {
		case word == "--":
			return append(append(append(out, arguments...), "--"), rest...)
		case len(word) > 1 && word[0] == '-':
			out = append(out, word)
			if takesValue(here, word) && len(rest) > 0 {
				out, rest = append(out, rest[0]), rest[1:]
			}
		case len(here.Subcommands) > 0:
			out = append(out, word)
			below := find(here.Subcommands, word)
			if below == nil {
				return append(out, rest...)
			}
			here = below
		case strings.HasPrefix(here.ArgsUsage, "--"):
			return append(append(out, word), rest...)
		default:
			arguments = append(arguments, word)
		}
	}
	return append(out, arguments...)
}

// takesValue reports whether the flag written as word is one of command's and has its value in the next word.
func takesValue(command *cli.Command, word string) bool {
	name := strings.TrimLeft(word, "-")
	for _, flag := range command.Flags {
		for _, known := range flag.Names() {
			if known == name {
				valued, ok := flag.(cli.DocGenerationFlag)
				return ok && valued.TakesValue()
			}
		}
	}
	return false
}

func find(commands []*cli.Command, name string) *cli.Command {
	for _, command := range commands {
		if command.HasName(name) {
			return command
		}
	}
	return nil
}

// usageError is the answer to flags that cannot be parsed.
func usageError(c *cli.Context, err error, _ bool) error {
	what := err.Error()
	if name, unknown := strings.CutPrefix(what, "flag provided but not defined: -"); unknown {
		name = strings.TrimLeft(name, "-")
		what = "there is no flag --" + name
		if near := cli.SuggestFlag(c.Command.Flags, name, false); near != "" {
			what += "; did you mean " + near + "?"
		}
	}
	if value, wrong := strings.CutPrefix(what, "invalid value "); wrong && (strings.HasSuffix(what, ": parse error") || strings.Contains(what, "time: ")) {
		what = badValue(c, value)
	}
	return fail(exitUsage, "%s (see %s --help)", what, c.Command.HelpName)
}

// badValue says what to write instead of a value that a flag cannot take; said is the flag package's: "VALUE" for flag -NAME: WHY.
func badValue(c *cli.Context, said string) string {
	value, rest, _ := strings.Cut(said, " for flag -")
	name, _, _ := strings.Cut(rest, ":")
	for _, flag := range c.Command.Flags {
		if _, span := flag.(*cli.DurationFlag); span && slices.Contains(flag.Names(), name) {
			return fmt.Sprintf("--%s %s is no span of time: write 30s or 5m", name, value)
		}
	}
	return fmt.Sprintf("--%s %s: that is no value for it", name, value)
}

// unknownCommand is the action of what has subcommands, when none of them was named.
func unknownCommand(c *cli.Context) error {
	name := c.Args().First()
	if name == "" {
		return fail(exitUsage, "a command is missing (see %s --help)", c.Command.HelpName)
	}
	what := "there is no command " + c.Command.HelpName + " " + name
	if suggestion := cli.SuggestCommand(c.Command.Subcommands, name); suggestion != "" {
		what += "; d" + strings.TrimPrefix(suggestion, "D")
	}
	return fail(exitUsage, "%s (see %s --help)", what, c.Command.HelpName)
}

// noArguments refuses arguments where none are awaited: they would be ignored otherwise.
func noArguments(c *cli.Context) error {
	if c.Args().Present() {
		return fail(exitUsage, "%s takes no arguments, this is one: %q", c.Command.HelpName, c.Args().First())
	}
	return nil
}
