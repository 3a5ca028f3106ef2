package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"certswarm/internal/control"

	"github.com/urfave/cli/v2"
)

func directoryFlag() cli.Flag {
	return &cli.StringFlag{Name: "directory", Usage: "`NAME` of the replicated directory, where there are several"}
}

func historyCommand() *cli.Command {
	return &cli.Command{
		Name:      "history",
		Usage:     "lists the earlier versions that this node keeps of a file, newest first; without PATH, the files that have some",
		ArgsUsage: "[PATH]",
		Flags:     []cli.Flag{directoryFlag()},
		Action: func(c *cli.Context) error {
			if c.NArg() > 1 {
				return fail(exitUsage, "history takes one path or none, these are %d", c.NArg())
			}
			ctx, cancel := context.WithTimeout(c.Context, commandTimeout)
			defer cancel()
			daemon, err := dialOf(c)
			if err != nil {
				return err
			}
			history, err := daemon.History(ctx, c.String("directory"), c.Args().First())
			if err != nil {
				return unanswered(err)
			}
			return tellUnless(c, history, nothingKept(history), func(l look) string { return renderHistory(history, time.Now(), l) })
		},
	}
}

// nothingKept says that there is nothing to list; "" when there is.
func nothingKept(h control.History) string {
	switch {
	case h.Path == "" && len(h.Paths) == 0:
		return fmt.Sprintf("Nothing in %s was replaced or deleted on this node by another one.", printable(h.Directory))
	case h.Path != "" && len(h.Versions)+len(h.Paths) == 0:
		return fmt.Sprintf("This node has no earlier version of %s. A node keeps what others replaced or deleted on it: ask another one.", printable(h.Directory+"/"+h.Path))
	}
	return ""
}

// renderHistory is the page of `history`.
func renderHistory(h control.History, now time.Time, look look) string {
	p := page{look: look}
	if len(h.Versions) == 0 {
		rows := [][]cell{header("PATH", "VERSIONS", "LATEST REPLACED")}
		for _, kept := range h.Paths {
			rows = append(rows, []cell{text(kept.Path), text(strconv.Itoa(kept.Versions)), text(ago(kept.Replaced, now, ""))})
		}
		p.table("", rows...)
	} else {
		rows := [][]cell{header("VERSION", "REPLACED", "SIZE", "MODE", "OWNER", "SHA-256", "CERTIFICATE")}
		for _, v := range h.Versions {
			rows = append(rows, []cell{
				text(v.Version), text(ago(v.Replaced, now, "")), size(v), orDash(v.Mode), orDash(v.Owner), orDash(v.Digest), content(v, now),
			})
		}
		p.table("", rows...)
	}
	return p.lines.String()
}

func size(v control.Version) cell {
	if v.Link != "" {
		return cell{text: "link"}
	}
	return cell{text: count(int(v.Size), "byte")}
}

// content is what there is to tell of what is in a version: where a link leads, which certificate it is.
func content(v control.Version, now time.Time) cell {
	switch {
	case v.Link != "":
		return text("-> " + v.Link)
	case v.Cert == nil:
		return cell{text: "-"}
	}
	p, until := plain, "expires "+in(v.Cert.NotAfter, now, "")
	if !now.Before(v.Cert.NotAfter.Time) {
		p, until = red, "expired "+ago(v.Cert.NotAfter, now, "")
	}
	return painted(strings.Join(append([]string{v.Cert.Serial, until}, v.Cert.Names...), ", "), p)
}
