//go:build !race

package testnet

// Slower is how much less the long tests do: nothing, but see race_test.go.
const Slower = 1
