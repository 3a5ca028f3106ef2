package main

import (
	"fmt"
	"slices"
	"strings"
)

// Who is compared. The columns of the table have them in this order.
const (
	certswarmName = "certswarm"
	syncthingName = "Syncthing"
	rsyncName     = "rsync --fsync"
	rsyncSyncName = "rsync, then sync"
	legoName      = "lego"
	floorName     = "floor"
)

var columns = []string{certswarmName, syncthingName, rsyncName, rsyncSyncName, legoName, floorName}

// row is what is measured. The table has the rows in the order of these constants.
type row int

const (
	singleP50 row = iota
	singleP90
	singleP99
	singleMax
	tenP50
	tenMax
	treeDurable
	burstVisible
	burstDurable
	awayVisible
	awayDurable
	awayStart
	awayBytes
	awayNothing
	tenRSS
	tenCPU
	manyRSS
	manyCPU
	obtained
)

var rows = [...]struct {
	what string
	target
}{
	singleP50:    {"file of 6 kB to both others of 3 nodes, ms: p50", target{most: 1}},
	singleP90:    {"file of 6 kB to both others of 3 nodes, ms: p90", target{}},
	singleP99:    {"file of 6 kB to both others of 3 nodes, ms: p99", target{most: 4}},
	singleMax:    {"file of 6 kB to both others of 3 nodes, ms: max", target{}},
	tenP50:       {"file of 6 kB to the last of 10 other nodes, ms: p50", target{most: 8}},
	tenMax:       {"file of 6 kB to the last of 10 other nodes, ms: max", target{most: 40}},
	treeDurable:  {"10,000 files to an empty node, durable, ms", target{than: map[string]float64{rsyncName: 1, floorName: 1.5}}},
	burstVisible: {"500 of 10,000 changed at once, visible, ms", target{}},
	burstDurable: {"500 of 10,000 changed at once, durable, ms", target{most: 300}},
	awayVisible:  {"10 of 10,000 changed while away, visible, ms after the connection", target{}},
	awayDurable:  {"10 of 10,000 changed while away, durable, ms after the connection", target{most: 50}},
	awayStart:    {"10 of 10,000 changed while away, durable, ms after the start of the program", target{}},
	awayBytes:    {"10 of 10,000 changed while away, kB on the wire", target{}},
	awayNothing:  {"nothing changed while away, kB on the wire", target{}},
	tenRSS:       {"1,000 files, 10 peers: resident, MiB", target{most: 20}},
	tenCPU:       {"1,000 files, 10 peers: CPU when idle, % of a core", target{most: 0.1}},
	manyRSS:      {"10,000 files, 2 peers: resident, MiB", target{most: 40}},
	manyCPU:      {"10,000 files, 2 peers: CPU when idle, % of a core", target{most: 0.1}},
	obtained:     {"100 certificates from empty disks, served by 3 nodes (lego: on its disk), s", target{than: map[string]float64{legoName: 0.5}}},
}

// target is what certswarm is to reach; the zero target is none.
type target struct {
	most float64            // in the unit of the row
	than map[string]float64 // as a multiple of what somebody else took in the same run
}

// table is the figures.
type table map[cell]float64

func newTable() *table { return &table{} }

func (t *table) set(what row, who string, figure float64) { (*t)[cell{what, who}] = figure }

// String writes the rows and columns that have a figure, in Markdown. Behind what another program took stands the ratio to certswarm:
// 2x is twice as much.
func (t *table) String() string {
	var out strings.Builder
	columns := t.columns()
	fmt.Fprintf(&out, "| what | %s | target |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)+2))
	for i, about := range rows {
		what := row(i)
		own, measured := (*t)[cell{what, certswarmName}]
		if !measured {
			continue
		}
		fmt.Fprintf(&out, "| %s |", about.what)
		for _, who := range columns {
			figure, ok := (*t)[cell{what, who}]
			switch {
			case !ok:
				out.WriteString(" |")
			case who == certswarmName:
				fmt.Fprintf(&out, " %s |", short(figure))
			default:
				fmt.Fprintf(&out, " %s (%sx) |", short(figure), short(figure/own))
			}
		}
		fmt.Fprintf(&out, " %s |\n", t.verdict(what))
	}
	return out.String()
}

// columns returns who has a figure that is compared.
func (t *table) columns() []string {
	return slices.DeleteFunc(slices.Clone(columns), func(who string) bool {
		for c := range *t {
			if _, compared := (*t)[cell{c.what, certswarmName}]; compared && c.who == who {
				return false
			}
		}
		return true
	})
}

// verdict says what was to be reached, and whether it was.
func (t *table) verdict(what row) string {
	to := rows[what].target
	own := (*t)[cell{what, certswarmName}]
	var parts []string
	met := true
	if to.most > 0 {
		parts = append(parts, short(to.most))
		met = own <= to.most
	}
	for _, who := range columns {
		times, ok := to.than[who]
		if !ok {
			continue
		}
		parts = append(parts, fmt.Sprintf("%sx %s", short(times), who))
		other, measured := (*t)[cell{what, who}]
		met = met && measured && own <= times*other
	}
	text := strings.Join(parts, ", ")
	if text != "" && !met {
		text += ": **missed**"
	}
	return text
}

// short has three figures of a number that matters.
func short(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0")
	}
	text := strings.TrimRight(fmt.Sprintf("%.2f", v), "0")
	return strings.TrimSuffix(text, ".")
}
