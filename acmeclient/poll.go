package acmeclient

import (
	"context"
	"fmt"
	"time"
)

const (
	firstPoll = 100 * time.Millisecond // a CA nearby has decided by then
	pollEvery = time.Second
	pollLimit = 5 * time.Minute
	pollWish  = time.Hour // what a CA that is merely not done may ask for
)

// poll calls ask until it says that the matter is settled or returns an error. Between calls it waits a time that grows to
// a second, or longer if the CA says so, an hour at most; a Retry-After that is past or absurdly short changes nothing. After pollLimit
// it gives up with an error that the next attempt continues from.
func poll(ctx context.Context, matter string, ask func(context.Context) (settled bool, err error)) error {
	deadline := time.Now().Add(pollLimit)
	for wait := firstPoll; ; wait = min(2*wait, pollEvery) {
		var asked time.Duration
		settled, err := ask(withWait(ctx, &asked))
		asked = min(asked, pollWish)
		if settled || err != nil {
			return err
		}
		next := max(wait, asked)
		if time.Now().Add(next).After(deadline) {
			return &failure{code: CodeUnreachable, err: fmt.Errorf("%s: the CA is not done with it", matter), until: time.Now().Add(asked)}
		}
		if err := pause(ctx, next); err != nil {
			return err
		}
	}
}
