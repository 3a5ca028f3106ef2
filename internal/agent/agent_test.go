package agent

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"

	"certswarm/internal/agent/config"
	_ "certswarm/internal/bubble"
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

// hanging returns an agent whose configuration is on a disk that does not answer before the test ends.
func hanging(t *testing.T) *Agent {
	back := make(chan struct{})
	t.Cleanup(func() { close(back) })
	a := New(func() (*config.Config, error) {
		<-back
		return nil, errors.New("the disk is back")
	}, "", Edges{}, slog.New(slog.DiscardHandler))
	a.house.Store(&house{})
	return a
}

// Neither who asked for a reload nor who stops the daemon waits for a disk that does not answer.
func TestAReadingThatHangsHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := hanging(t)
		ctx, stop := context.WithCancelCause(t.Context())
		left := make(chan error, 1)
		go func() {
			next, _, err := a.await(ctx, &house{}, make(chan error, 1))
			if next != nil {
				err = errors.New("there is another house")
			}
			left <- err
		}()
		reload := func(ctx context.Context) chan error {
			answer := make(chan error, 1)
			go func() { answer <- a.Reload(ctx) }()
			synctest.Wait()
			return answer
		}
		impatient, leave := context.WithCancel(t.Context())
		first, waiting := reload(impatient), reload(impatient)
		leave()
		synctest.Wait()
		if len(first) != 1 || len(waiting) != 1 {
			t.Fatal("who has left is still waiting")
		}
		if err := errors.Join(<-first, <-waiting); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		stop(errors.New("SIGTERM"))
		synctest.Wait()
		if len(left) != 1 {
			t.Fatal("the daemon does not stop")
		}
		if err := <-left; err != nil {
			t.Error(err)
		}
	})
}

// Who still waits for a reload when the daemon is stopped is told so.
func TestAStopIsToldToWhoWaitsForAReadingThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := hanging(t)
		ctx, stop := context.WithCancelCause(t.Context())
		go func() { _, _, _ = a.await(ctx, &house{}, make(chan error, 1)) }()
		answer := make(chan error, 1)
		go func() { answer <- a.Reload(t.Context()) }()
		synctest.Wait()
		stop(errors.New("SIGTERM"))
		synctest.Wait()
		if len(answer) != 1 {
			t.Fatal("nobody is told")
		}
		if err := <-answer; err == nil || err.Error() != "the daemon is stopping: SIGTERM" {
			t.Error(err)
		}
	})
}

func TestADaemonWhoseFirstReadingHangsCanBeStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := hanging(t)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- a.Run(ctx) }()
		synctest.Wait()
		stop()
		synctest.Wait()
		if len(ended) != 1 {
			t.Fatal("the daemon does not stop")
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
