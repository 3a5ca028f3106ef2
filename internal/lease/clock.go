package lease

import (
	"fmt"
	"time"

	"certswarm/internal/lease/rules"

	"golang.org/x/sys/unix"
)

// Clock tells the time on both clocks that end a right.
type Clock func() rules.Moment

// SystemClock is the machine's. CLOCK_BOOTTIME goes on while the machine is suspended, which Go's monotonic clock does not.
func SystemClock() rules.Moment {
	var boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		panic(fmt.Sprintf("lease: CLOCK_BOOTTIME, which Linux has since 2.6.39, cannot be read: %v", err))
	}
	return rules.Moment{Boot: time.Duration(boot.Nano()), Wall: time.Now().Round(0)}
}

// plainClock is package time's, which is also what a synctest bubble has.
func plainClock() Clock {
	start := time.Now()
	return func() rules.Moment {
		now := time.Now()
		return rules.Moment{Boot: now.Sub(start), Wall: now.Round(0)}
	}
}
