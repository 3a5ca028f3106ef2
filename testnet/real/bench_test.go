package real_test

import (
	"testing"
	"time"

	"certswarm/testnet/load"
	"certswarm/testnet/real"
)

// What is measured here is in package load; testnet/versus puts the same on other programs.

// BenchmarkPropagation measures how long a file of 6 kB takes from the rename on one node until it is readable on all others:
// files that come one at a time, as certificates do, and files that come as soon as the one before them has
// arrived, while everybody is still busy making that durable. The distribution is what matters.
func BenchmarkPropagation(b *testing.B) {
	b.Run("single", func(b *testing.B) { propagate(b, 3, 20*time.Millisecond) })
	b.Run("stream", func(b *testing.B) { propagate(b, 3, 0) })
	b.Run("to-ten", func(b *testing.B) { propagate(b, 11, 20*time.Millisecond) })
}

func propagate(b *testing.B, nodes int, pause time.Duration) {
	w := start(b, real.Config{Addresses: addresses(nodes)})
	w.await(real.Synced)
	p, err := load.Propagate(w.Swarm())
	w.must(err)
	defer p.Close()
	var took []time.Duration
	for b.Loop() {
		b.StopTimer()
		time.Sleep(pause)
		b.StartTimer()
		one, err := p.Next(w.ctx)
		w.must(err)
		took = append(took, one)
	}
	b.ReportMetric(float64(p.Strays)/float64(len(took)), "strays/op")
	spread := load.SpreadOf(took)
	b.ReportMetric(milliseconds(spread.At(0.5)), "p50-ms")
	b.ReportMetric(milliseconds(spread.At(0.9)), "p90-ms")
	b.ReportMetric(milliseconds(spread.At(0.99)), "p99-ms")
	b.ReportMetric(milliseconds(spread.At(1)), "max-ms")
}

// BenchmarkTree measures what becomes of 10,000 small files, certificates and their keys: how long until an empty node holds
// them durably, and how many times as long as it takes to just write them to that disk; how long 500 that are renewed at once
// take; and what it costs a node to catch up with nothing and with 10 of them after it was away.
func BenchmarkTree(b *testing.B) {
	files, err := load.Certificates(5000)
	if err != nil {
		b.Fatal(err)
	}
	renewed, err := load.Certificates(250)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		floor, err := files.Floor(b.TempDir())
		if err != nil {
			b.Fatal(err)
		}
		w := start(b, real.Config{Addresses: addresses(2)})
		w.await(real.Synced)
		swarm := w.Swarm()
		join, err := load.Join(w.ctx, swarm, files)
		w.must(err)
		w.must(files.Verify(swarm.Dirs()[1]))
		burst, err := load.Burst(w.ctx, swarm, renewed)
		w.must(err)
		w.must(renewed.Over(files).Verify(swarm.Dirs()[1]))

		relayed := start(b, real.Config{Addresses: addresses(2), Relayed: true})
		relayed.await(real.Synced)
		swarm = relayed.Swarm()
		relayed.must(load.Fill(relayed.ctx, swarm, files))
		nothing, err := load.Rejoin(relayed.ctx, swarm, nil)
		relayed.must(err)
		some, err := load.Rejoin(relayed.ctx, swarm, renewed[:10])
		relayed.must(err)
		relayed.must(renewed[:10].Over(files).Verify(swarm.Dirs()[1]))

		b.ReportMetric(milliseconds(join.Durable), "join-ms")
		b.ReportMetric(join.Durable.Seconds()/floor.Seconds(), "join/floor")
		b.ReportMetric(milliseconds(burst.Visible), "500-visible-ms")
		b.ReportMetric(milliseconds(burst.Durable), "500-durable-ms")
		b.ReportMetric(milliseconds(some.Visible), "rejoin-visible-ms")
		b.ReportMetric(milliseconds(some.Durable), "rejoin-durable-ms")
		b.ReportMetric(float64(some.Bytes), "rejoin-B")
		b.ReportMetric(float64(nothing.Bytes), "rejoin-nothing-B")
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// BenchmarkIdle measures what an agent costs when nothing happens, after it had time to give back what it used before.
func BenchmarkIdle(b *testing.B) {
	b.Run("files=1000/peers=2", func(b *testing.B) { idle(b, 1000, 2) })
	b.Run("files=1000/peers=10", func(b *testing.B) { idle(b, 1000, 10) })
	b.Run("files=10000/peers=2", func(b *testing.B) { idle(b, 10_000, 2) })
}

func idle(b *testing.B, files, peers int) {
	tree, err := load.Certificates(files / 2)
	if err != nil {
		b.Fatal(err)
	}
	w := start(b, real.Config{Addresses: addresses(peers + 1)})
	w.await(real.Synced)
	swarm := w.Swarm()
	w.must(load.Fill(w.ctx, swarm, tree))
	for b.Loop() {
		cost, err := load.Rest(w.ctx, swarm, 15*time.Second, 5*time.Second)
		w.must(err)
		b.ReportMetric(cost.CPU, "cpu-%")
		b.ReportMetric(cost.RSS, "RSS-MiB")
	}
}
