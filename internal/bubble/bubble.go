// Package bubble is imported by every test that uses testing/synctest, for what it does under the race detector: it has the test's process compute on
// one processor. The timers of a bubble share one context of the race detector, and two that fire on two processors at once corrupt it, so that the
// process dies in ThreadSanitizer (https://go.dev/issue/78156). Goroutines are interleaved all the same.
package bubble
