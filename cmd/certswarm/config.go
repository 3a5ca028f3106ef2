package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"certswarm/internal/agent/config"

	"github.com/urfave/cli/v2"
)

func configCommand() *cli.Command {
	return &cli.Command{
		Name:  "config",
		Usage: "checks and shows the configuration",
		Subcommands: []*cli.Command{
			{
				Name:      "check",
				Usage:     "says everything that is wrong with a configuration",
				ArgsUsage: "[FILE...]",
				Description: "Reads the files in their order as one configuration; without any, what the daemon would read. Needs no daemon,\n" +
					"no network and no privileges. Each error is one line on stderr: FILE:LINE:COLUMN: what; what to write instead.",
				Flags: []cli.Flag{
					&cli.BoolFlag{Name: "fragment", Usage: "check each file alone, as a part of a configuration", DisableDefaultText: true},
				},
				Action: checkConfig,
			},
			{
				Name:   "show",
				Usage:  "prints the configuration, merged and with its defaults",
				Action: showConfig,
			},
		},
	}
}

func checkConfig(c *cli.Context) error {
	g, files := globalsOf(c), c.Args().Slice()
	var wrong error
	switch {
	case c.Bool("fragment") && len(files) == 0:
		return fail(exitUsage, "name the fragments to check (see %s --help)", c.Command.HelpName)
	case c.Bool("fragment"):
		wrong = checkFragments(files)
	case len(files) > 0:
		_, wrong = config.Load(files)
	default:
		if _, err := os.Stat(g.Config); errors.Is(err, fs.ErrNotExist) {
			return fail(exitUsage, "there is no %s; name the files to check", g.Config)
		}
		files = []string{g.Config}
		_, wrong = config.LoadWithConfD(g.Config)
	}
	if g.JSON {
		if err := printVerdict(c, wrong); err != nil {
			return err
		}
	}
	if wrong != nil {
		return wrong
	}
	fmt.Fprintf(c.App.ErrWriter, "valid: %s\n", strings.Join(files, ", "))
	return nil
}

// checkFragments checks each file alone and returns what is wrong with all of them.
func checkFragments(files []string) error {
	var all config.Errors
	for _, file := range files {
		var wrong config.Errors
		if errors.As(config.CheckFragment(file), &wrong) {
			all = append(all, wrong...)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

// printVerdict writes what checkConfig found as JSON.
func printVerdict(c *cli.Context, wrong error) error {
	list := config.Errors{}
	errors.As(wrong, &list)
	return printJSON(c.App.Writer, struct {
		Valid  bool          `json:"valid"`
		Errors config.Errors `json:"errors"`
	}{wrong == nil, list})
}

func showConfig(c *cli.Context) error {
	g := globalsOf(c)
	cfg, err := config.LoadWithConfD(g.Config)
	if err != nil {
		return err
	}
	if g.JSON {
		return printJSON(c.App.Writer, json.RawMessage(config.EffectiveJSON(cfg)))
	}
	_, err = c.App.Writer.Write(config.Effective(cfg))
	return err
}
