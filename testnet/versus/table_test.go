package main

import "testing"

func TestTable(t *testing.T) {
	figures := newTable()
	figures.set(singleP50, certswarmName, 0.98)
	figures.set(singleP50, syncthingName, 6.88)
	figures.set(singleMax, syncthingName, 114) // without certswarm's it is no comparison
	figures.set(tenMax, certswarmName, 40.5)
	figures.set(treeDurable, certswarmName, 700)
	figures.set(treeDurable, rsyncName, 2100)
	figures.set(treeDurable, floorName, 500)
	figures.set(burstVisible, certswarmName, 100)
	const want = `| what | certswarm | Syncthing | rsync --fsync | floor | target |
|---|---|---|---|---|---|
| file of 6 kB to both others of 3 nodes, ms: p50 | 0.98 | 6.88 (7.02x) | | | 1 |
| file of 6 kB to the last of 10 other nodes, ms: max | 40.5 | | | | 40: **missed** |
| 10,000 files to an empty node, durable, ms | 700 | | 2100 (3x) | 500 (0.71x) | 1x rsync --fsync, 1.5x floor |
| 500 of 10,000 changed at once, visible, ms | 100 | | | |  |
`
	if got := figures.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	figures.set(treeDurable, certswarmName, 751)
	if got := figures.verdict(treeDurable); got != "1x rsync --fsync, 1.5x floor: **missed**" {
		t.Error(got)
	}
	figures.set(treeDurable, certswarmName, 700)
	figures.set(treeDurable, rsyncName, 699)
	if got := figures.verdict(treeDurable); got != "1x rsync --fsync, 1.5x floor: **missed**" {
		t.Error(got)
	}
}
