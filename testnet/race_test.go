//go:build race

package testnet

// Slower is how much less the long tests do under the race detector, which slows them down as much.
const Slower = 6
