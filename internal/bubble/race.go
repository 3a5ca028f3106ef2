//go:build race

package bubble

import "runtime"

func init() { runtime.GOMAXPROCS(1) } // package testing takes it for its default of -cpu
