package agent

import (
	"context"
	"testing"
)

// A house that has ended because it was told to has not fallen, whichever of the two its agent hears of first.
func TestAnEndThatWasAskedForIsNoFall(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		ended := make(chan error, 1)
		ended <- nil
		if _, _, err := (&Agent{}).await(ctx, &house{}, ended); err != nil {
			t.Fatal(err)
		}
		if len(ended) != 1 {
			t.Fatal("how the house ended is lost")
		}
	}
}
