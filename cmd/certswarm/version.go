package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/urfave/cli/v2"
)

// version is set when a release is linked: -ldflags "-X main.version=1.2.3".
var version = "dev"

// buildVersion returns the version of a release, else the module version or revision that Go recorded, else "dev".
func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if version != "dev" || !ok {
		return version
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			return version + "-" + setting.Value
		}
	}
	return version
}

func versionCommand() *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "prints the version of this program, and of the Go it was built with",
		Action: func(c *cli.Context) error {
			if globalsOf(c).JSON {
				return printJSON(c.App.Writer, map[string]string{"version": buildVersion(), "go": runtime.Version()})
			}
			_, err := fmt.Fprintf(c.App.Writer, "certswarm %s %s\n", buildVersion(), runtime.Version())
			return err
		},
	}
}
