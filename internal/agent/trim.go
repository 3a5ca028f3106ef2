package agent

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	trimInterval = 10 * time.Second
	trimSlack    = 1 << 20 // bytes of free heap that are not worth a collection
)

// giveBack returns memory that a burst left behind (a scan, a batch, a reload) to the system, for a daemon that is idle most of its
// life. Left to itself the runtime keeps it for many minutes.
func giveBack(ctx context.Context) {
	free := []metrics.Sample{{Name: "/memory/classes/heap/free:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}}
	tick := time.NewTicker(trimInterval)
	defer tick.Stop()
	var left uint64
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(free)
		if slack := free[0].Value.Uint64() + free[1].Value.Uint64(); slack > left+trimSlack {
			debug.FreeOSMemory()
			metrics.Read(free)
			left = free[0].Value.Uint64() + free[1].Value.Uint64() // what no collection gives back
		}
	}
}
