package main

import (
	"errors"
	"fmt"
	"io/fs"

	"certswarm/internal/fleet"
	"certswarm/internal/peer"

	"github.com/urfave/cli/v2"
)

func identityCommand() *cli.Command {
	stateDir := func() []cli.Flag {
		return []cli.Flag{&cli.PathFlag{Name: "state-dir", Usage: "the state `DIRECTORY` of the node, which holds its key"}}
	}
	return &cli.Command{
		Name:  "identity",
		Usage: "makes and shows this node's identity",
		Subcommands: []*cli.Command{
			{
				Name:        "generate",
				Usage:       "makes the node's key, once, and prints its id",
				Description: "The id goes into the peer list of every node. Where there is a key already it stays, and its id is printed.",
				Flags:       stateDir(),
				Action:      generateIdentity,
			},
			{
				Name:        "show",
				Usage:       "prints the node's id",
				Description: "Works with the daemon stopped. Exits 1 when there is no key yet.",
				Flags:       stateDir(),
				Action:      showIdentity,
			},
		},
	}
}

func generateIdentity(c *cli.Context) error {
	dir, err := stateDirOf(c)
	if err != nil {
		return err
	}
	id, created, err := peer.CreateIdentity(dir)
	if err != nil {
		return fail(1, "%v", err)
	}
	if !created {
		fmt.Fprintf(c.App.ErrWriter, "unchanged: %s already holds this identity\n", dir)
	}
	return printID(c, id.ID())
}

func showIdentity(c *cli.Context) error {
	dir, err := stateDirOf(c)
	if err != nil {
		return err
	}
	id, err := peer.LoadIdentity(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fail(1, "%s holds no identity; make one with: certswarm identity generate --state-dir %[1]s", dir)
	case err != nil:
		return fail(1, "%v", err)
	}
	return printID(c, id.ID())
}

// stateDirOf returns --state-dir. It has no default: a key made in the wrong place by mistake is a second node.
func stateDirOf(c *cli.Context) (string, error) {
	if dir := c.Path("state-dir"); dir != "" {
		return dir, nil
	}
	return "", fail(exitUsage, "--state-dir is missing; the configuration calls it state_dir, usually /var/lib/certswarm")
}

func printID(c *cli.Context, id fleet.NodeID) error {
	if globalsOf(c).JSON {
		return printJSON(c.App.Writer, map[string]string{"id": id.String()})
	}
	_, err := fmt.Fprintln(c.App.Writer, id)
	return err
}
