//go:build race

package lease_test

// slower is how much less time fleets live through under the race detector, which slows them down as much.
const slower = 40
