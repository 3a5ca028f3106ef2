package real_test

import (
	"testing"

	"certswarm/testnet/load"
	"certswarm/testnet/real"
)

// What the benchmarks do to 10,000 files works with a few, and what they count is what was sent.
func TestSwarmIsMeasured(t *testing.T) {
	t.Parallel()
	files, err := load.Certificates(20)
	if err != nil {
		t.Fatal(err)
	}
	renewed, err := load.Certificates(5)
	if err != nil {
		t.Fatal(err)
	}
	w := start(t, real.Config{Addresses: addresses(2), Relayed: true})
	w.await(real.Synced)
	swarm := w.Swarm()

	join, err := load.Join(w.ctx, swarm, files)
	w.must(err)
	w.must(files.Verify(swarm.Dirs()[1]))
	burst, err := load.Burst(w.ctx, swarm, renewed)
	w.must(err)
	for _, d := range []load.Delivery{join, burst} {
		if d.Visible <= 0 || d.Durable < d.Visible {
			t.Errorf("visible after %v, durable after %v", d.Visible, d.Durable)
		}
	}

	nothing, err := load.Rejoin(w.ctx, swarm, nil)
	w.must(err)
	some, err := load.Rejoin(w.ctx, swarm, files[:10])
	w.must(err)
	w.must(files.Over(renewed).Verify(swarm.Dirs()[1]))
	content := int64(0)
	for _, f := range files[:10] {
		content += int64(len(f.Content))
	}
	if nothing.Bytes <= 0 || some.Bytes < nothing.Bytes+content/2 {
		t.Errorf("%d bytes for %d of content, where nothing takes %d", some.Bytes, content, nothing.Bytes)
	}
	unmeasured := start(t, real.Config{Addresses: addresses(1)})
	if _, err := unmeasured.Swarm().Traffic(w.ctx); err == nil {
		t.Error("without a relay nothing is counted")
	}
}
