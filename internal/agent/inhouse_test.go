package agent

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"certswarm/syncer"
)

// What is asked of a house that is about to be left, because its directories begin anew, is asked again in the next one.
func TestAQuestionMovesToTheNextHouse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &Agent{changed: newBroadcast()}
		first, second := new(house), new(house)
		a.house.Store(first)
		var answers []*house
		done := make(chan error, 1)
		go func() {
			done <- a.inHouse(t.Context(), func(h *house) error {
				answers = append(answers, h)
				if h == first {
					return fmt.Errorf("it was read: %w", syncer.ErrRejoin)
				}
				return nil
			})
		}()
		synctest.Wait()
		a.house.Store(second)
		a.changed.fire()
		if err := <-done; err != nil || len(answers) != 2 || answers[1] != second {
			t.Errorf("asked of %d houses: %v", len(answers), err)
		}

		other := errors.New("another reason")
		if err := a.inHouse(t.Context(), func(*house) error { return other }); !errors.Is(err, other) {
			t.Errorf("what has another reason waits for nothing: %v", err)
		}
		impatient, cancel := context.WithCancel(t.Context())
		cancel()
		if err := a.inHouse(impatient, func(*house) error { return syncer.ErrRejoin }); !errors.Is(err, context.Canceled) {
			t.Errorf("whoever gives up goes on waiting: %v", err)
		}
	})
}
