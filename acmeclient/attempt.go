package acmeclient

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/acme"
)

// issuance performs the attempt in j: it asks the CA where the order stands, lets next decide, acts, and journals.
type issuance struct {
	*session
	w    *worker
	j    *journal
	acme *acme.Client // nil: not connected yet

	order    *acme.Order // as last seen
	open     []challenge // that the CA was not yet told to validate
	invalid  bool        // a validation failed
	renewed  bool        // the account was registered anew
	resumed  bool        // the attempt was begun before: here, or on another node
	ordering bool        // newOrder was sent, and nobody knows what came of it
	repeated bool        // an order that replaces a certificate met a CA in trouble

	told map[string]bool // URLs of the challenges that were accepted, even if the CA does not show it yet
}

// inPlace is how often a transient error is met by repeating at once; each repetition begins by asking the CA where
// the order stands.
const inPlace = 4

// advance takes the attempt to its end. When it returns an error, the journal says how far it came.
func (i *issuance) advance(ctx context.Context) error {
	leave, err := i.client.turns.take(ctx, i.directory+" "+nameSet(i.j.Attempt.Names), func() {
		i.say("", "waits until another order for the same names has come to its end")
	})
	if err != nil {
		return err
	}
	defer leave()
	for tries := 0; ; {
		if i.j.Attempt.Step.reached(StepValid) {
			leave() // what is left is between the fleet and its front-ends
		}
		done, err := i.once(ctx)
		switch {
		case err == nil && done:
			return nil
		case err == nil:
			tries = 0
			continue
		case ctx.Err() != nil || errors.Is(err, errNoAuthority):
			return fmt.Errorf("%w: %w", errNoAuthority, err)
		case isProblem(err, "accountDoesNotExist") && i.acme != nil && !i.renewed:
			i.renewed = true
			stale := string(i.acme.KID)
			i.acme = nil
			client, err := i.connect(ctx, stale)
			if err != nil {
				return err
			}
			i.acme = client
			i.say("", "the CA did not know the account; it was registered anew")
			continue
		}
		if f := diagnose(err, time.Now()); !f.transient || tries >= inPlace {
			return err
		}
		if err := pause(ctx, 200*time.Millisecond<<tries); err != nil {
			return fmt.Errorf("%w: %w", errNoAuthority, err)
		}
		tries++
	}
}

// once takes one step.
func (i *issuance) once(ctx context.Context) (done bool, err error) {
	a := i.j.Attempt
	var view orderView
	if !a.Step.reached(StepValid) {
		if i.acme == nil {
			if i.acme, err = i.connect(ctx, ""); err != nil {
				return false, err
			}
		}
		if a.Order != nil {
			if view, err = i.look(ctx); err != nil {
				return false, err
			}
		}
	}
	act, why := next(a, view)
	switch {
	case a.Order == nil:
	case act != actPoll:
		a.Order.Waiting = time.Time{}
	case a.Order.Waiting.IsZero():
		a.Order.Waiting = time.Now().UTC()
	}
	switch act {
	case actOrder:
		return false, i.placeOrder(ctx)
	case actPresent:
		return false, i.present(ctx)
	case actAwait:
		return false, i.await(ctx)
	case actAccept:
		return false, i.accept(ctx)
	case actPoll:
		return false, i.wait(ctx)
	case actFinalize:
		return false, i.finalize(ctx)
	case actFetch:
		return false, i.fetch(ctx)
	case actCheck:
		return false, i.check(ctx)
	case actInstall:
		return false, i.install(ctx)
	case actVerify:
		return false, i.verify(ctx)
	case actDone:
		return true, nil
	}
	f := &failure{code: CodeRefused, err: errors.New(why), final: true}
	if i.invalid {
		i.j.Invalid = append(i.j.Invalid, mark{time.Now().UTC(), nameSet(a.Names)})
		f.code = CodeNotServed
	}
	return false, f
}

// look asks the CA where the order stands. It is done before every POST: the answer to an earlier one may have been lost.
func (i *issuance) look(ctx context.Context) (orderView, error) {
	a := i.j.Attempt
	i.open, i.invalid = nil, false
	found, err := i.acme.GetOrder(ctx, a.Order.URL)
	// A CA's replica may lag behind: an order that is not found, above all a young one, is asked for again.
	const young, again = 10 * time.Second, 3
	for try := 0; isGone(err) && !i.renewed && (try == 0 || try < again && time.Since(a.Order.Placed) < young); try++ {
		if err := pause(ctx, time.Second); err != nil {
			return orderView{}, err
		}
		found, err = i.acme.GetOrder(ctx, a.Order.URL)
	}
	if isGone(err) {
		return orderView{Gone: true}, nil
	}
	if err != nil {
		return orderView{}, err
	}
	i.order = found
	if a.Order.Expires.IsZero() {
		a.Order.Expires = orderEnd(found.Expires, a.Order.Placed)
	}
	held, err := i.w.held()
	now := time.Now()
	affordable := err == nil && i.client.cfg.Budget.refuses(i.j, nameSet(a.Names), a.Force, now) == nil
	view := orderView{Status: found.Status, Stuck: stuck(a.Order, held, affordable, now)}
	if found.Error != nil {
		view.Detail = found.Error.Error()
	}
	if found.Status != acme.StatusPending && found.Status != acme.StatusInvalid {
		return view, nil
	}
	var details []string
	for _, c := range a.Order.Challenges {
		authorization, err := i.acme.GetAuthorization(ctx, c.Authorization)
		if isGone(err) {
			return orderView{Gone: true}, nil
		}
		if err != nil {
			return view, err
		}
		at := slices.IndexFunc(authorization.Challenges, func(seen *acme.Challenge) bool { return seen.URI == c.URL })
		switch authorization.Status {
		case acme.StatusValid:
		case acme.StatusPending:
			if at >= 0 && authorization.Challenges[at].Status == acme.StatusPending && !i.told[c.URL] {
				i.open = append(i.open, c)
			}
		case acme.StatusInvalid:
			i.invalid = true
			view.Status = acme.StatusInvalid
			if at >= 0 {
				details = append(details, fmt.Sprintf("%s: %v", c.Token.Host, authorization.Challenges[at].Error))
			}
		default: // deactivated, expired or revoked: the order cannot be completed, whatever the CA still calls it
			view.Status = acme.StatusInvalid
			details = append(details, fmt.Sprintf("%s: the authorization is %s", c.Token.Host, authorization.Status))
		}
	}
	view.Open = len(i.open)
	if len(details) > 0 {
		view.Detail = strings.Join(details, "; ")
	}
	return view, nil
}

// reach journals that the attempt came to step: COMMIT. A crash before it repeats what led here, one after it does not.
func (i *issuance) reach(ctx context.Context, step Step, text string) error {
	i.j.Attempt.Step = step
	if err := i.save(ctx); err != nil {
		return err
	}
	i.say(step, text)
	i.w.show(i.j)
	return nil
}

func (i *issuance) save(ctx context.Context) error { return i.w.save(ctx, i.session, i.j) }

func (i *issuance) say(step Step, text string) {
	i.client.cfg.Observe(Event{Time: time.Now(), Name: i.w.cert.Name, Attempt: i.j.Attempt.ID, Rehearsal: i.j.Attempt.Rehearsal,
		Step: step, Node: i.client.cfg.Node, Text: text})
}
