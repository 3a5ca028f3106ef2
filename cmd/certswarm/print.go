package main

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/urfave/cli/v2"
)

// tell prints what a command found or did: as JSON for programs, as a page for people.
func tell(c *cli.Context, found any, page func(look) string) error {
	g := globalsOf(c)
	if g.JSON {
		return printJSON(c.App.Writer, found)
	}
	_, err := io.WriteString(c.App.Writer, page(lookOf(c.App.Writer, g)))
	return err
}

// tellLine is tell where people need one line.
func tellLine(c *cli.Context, found any, line string) error {
	return tell(c, found, func(look) string { return line + "\n" })
}

// outcome is the JSON of a command that has nothing to show but what came of it: people read the same on stderr, or in the exit code alone.
type outcome struct {
	OK   bool   `json:"ok"`
	Text string `json:"text"` // what was done, or why not
}

func concluded(err error, done string) outcome {
	if err != nil {
		return outcome{Text: err.Error()}
	}
	return outcome{true, done}
}

// conclude tells programs what came of a command that ends with err, which it returns.
func conclude(c *cli.Context, came any, err error) error {
	if !globalsOf(c).JSON {
		return err
	}
	if failed := printJSON(c.App.Writer, came); err == nil {
		return failed
	}
	return err
}

// tellUnless is tell where there may be nothing to list: people are told on stderr then, for a sentence is no data.
func tellUnless(c *cli.Context, found any, nothing string, page func(look) string) error {
	if nothing == "" || globalsOf(c).JSON {
		return tell(c, found, page)
	}
	_, err := fmt.Fprintln(c.App.ErrWriter, nothing)
	return err
}

// printJSON writes value as one indented JSON document.
func printJSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// lookOf decides on colour: only for a person, and only for one who did not decline (no-color.org).
func lookOf(out io.Writer, g globals) look {
	declined := g.NoColor || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb"
	return look{colour: !declined && isTerminal(out)}
}

func isTerminal(out io.Writer) bool {
	file, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&fs.ModeCharDevice != 0
}
