package acmeclient

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/acme"
)

// placeOrder asks for a certificate: the first irreversible call of an attempt.
//
// Crash: after newOrder and before the save, the order is forgotten here; the same key and CSR go into another, and the CA
// issues for one of them only.
func (i *issuance) placeOrder(ctx context.Context) error {
	a := i.j.Attempt
	if !a.Rehearsal {
		if refusal := i.client.cfg.Budget.refuses(i.j, nameSet(a.Names), a.Force, time.Now()); refusal != nil {
			return refusal
		}
	}
	directory, err := i.acme.Discover(ctx)
	if err != nil {
		return err
	}
	if _, ok := directory.Profiles[acme.ProfileName(a.Profile)]; !ok && a.Profile != "" {
		return &failure{code: CodeRefused, final: true, err: fmt.Errorf("the CA has no profile %q; it has: %s", a.Profile, profiles(directory))}
	}
	replaces, err := i.replaces(ctx)
	if err != nil {
		return err
	}
	leave := func(error) {}
	if !a.Rehearsal {
		if leave, err = i.client.orders.pass(ctx, nameSet(a.Names)); err != nil {
			return err
		}
	}
	permitted, err := i.permit(ctx)
	if err == nil && i.count != nil {
		err = ofFleet(i.count(), "writing down that an order follows")
	}
	if err != nil {
		leave(err)
		return err
	}
	// An earlier newOrder of this attempt, whose answer nobody heard, or of one that was given up.
	mayBeLost := i.ordering || i.resumed && !a.Contested || slices.ContainsFunc(i.j.History, func(o Outcome) bool { return o.Replaces == replaces })
	i.ordering = true
	placed, err := i.newOrder(permitted, i.acme, a.Names, a.Profile, replaces)
	leave(err)
	if err != nil {
		_, answered := errors.AsType[*acme.Error](err)
		i.ordering = !answered
		return i.contested(ctx, replaces, mayBeLost, err)
	}
	i.ordering = false
	if placed.URI == "" || placed.FinalizeURL == "" {
		return &failure{code: CodeRefused, err: errors.New("the CA accepted an order without saying its URL")}
	}
	now := time.Now().UTC()
	i.j.Cleanup = append(i.j.Cleanup, a.tokens()...) // of an order that expired
	i.j.Orders = append(i.j.Orders, mark{now, nameSet(a.Names)})
	a.Orders++
	a.Replaces, a.Account = replaces, string(i.acme.KID)
	a.Order = &order{URL: placed.URI, FinalizeURL: placed.FinalizeURL, Placed: now, Expires: orderEnd(placed.Expires, now)}
	return i.reach(ctx, StepOrdered, placed.URI)
}

// contested decides what becomes of an order that the CA did not accept, err, because of the certificate that it was to
// replace. Let's Encrypt answers 409 to a second order that replaces the same certificate, and returns the pending one to
// an order that replaces none: so an order whose answer was lost is found again. If somebody else has renewed meanwhile
// there is nothing to do; if that cannot be seen from here, the next attempts wait before they order regardless.
func (i *issuance) contested(ctx context.Context, replaces string, mayBeLost bool, err error) error {
	problem, ok := errors.AsType[*acme.Error](err)
	if replaces == "" || !ok || problem.StatusCode == http.StatusTooManyRequests || isProblem(err, "rateLimited") || isProblem(err, "accountDoesNotExist") {
		return err
	}
	a := i.j.Attempt
	taken := problem.StatusCode == http.StatusConflict || isProblem(err, "alreadyReplaced")
	switch {
	case taken:
		held, readErr := i.w.held()
		if readErr != nil {
			return ofFleet(readErr, "reading the certificate in force")
		}
		if held != nil && CertID(held.Leaf) != replaces {
			return &failure{code: CodeRefused, final: true, moot: true, err: fmt.Errorf("%s was replaced by others meanwhile: %w", replaces, err)}
		}
		const patience = 2 // failures in a row
		if !mayBeLost && i.j.Failures < patience {
			a.Contested = true
			return &failure{code: CodeRefused, err: fmt.Errorf("another order replaces the certificate in force already: %w", err)}
		}
	case problem.StatusCode >= 500 && !i.repeated: // the CA itself may be unwell
		i.repeated = true
		return err
	}
	a.Alone = true
	if err := i.save(ctx); err != nil {
		return err
	}
	i.say("", fmt.Sprintf("the CA does not take an order that replaces %s (%v); it is ordered without", replaces, err))
	return nil
}

// profiles lists what the CA offers.
func profiles(directory acme.Directory) string {
	if len(directory.Profiles) == 0 {
		return "none"
	}
	var names []string
	for name := range directory.Profiles {
		names = append(names, string(name))
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// strictToken is all that a token may be made of (RFC 8555 8.1): it becomes a file name on every front-end.
var strictToken = regexp.MustCompile(`^[A-Za-z0-9_-]{16,256}$`)

// present learns which challenges must be met and journals their tokens, so that whoever comes later can remove them.
func (i *issuance) present(ctx context.Context) error {
	a := i.j.Attempt
	expires, most := i.order.Expires.UTC(), time.Now().UTC().Add(week)
	if expires.IsZero() || expires.After(most) {
		expires = most
	}
	var challenges []challenge
	for _, url := range i.order.AuthzURLs {
		authorization, err := i.acme.GetAuthorization(ctx, url)
		if err != nil {
			return err
		}
		if authorization.Status == acme.StatusValid {
			continue
		}
		host := authorization.Identifier.Value
		at := slices.IndexFunc(authorization.Challenges, func(c *acme.Challenge) bool { return c.Type == "http-01" })
		if at < 0 {
			return &failure{code: CodeRefused, final: true, err: fmt.Errorf("the CA does not offer http-01 for %s", host)}
		}
		offered := authorization.Challenges[at]
		if !strictToken.MatchString(offered.Token) {
			return &failure{code: CodeRefused, final: true, err: fmt.Errorf("the CA's token for %s is not one: %q", host, offered.Token)}
		}
		answer, err := i.acme.HTTP01ChallengeResponse(offered.Token)
		if err != nil {
			return err
		}
		challenges = append(challenges, challenge{
			Authorization: url,
			URL:           offered.URI,
			Token:         Token{Token: offered.Token, Host: host, KeyAuthorization: answer, Expires: expires},
		})
	}
	a.Order.Challenges = challenges
	return i.reach(ctx, StepPresented, "")
}

// await publishes the tokens and stands at the barrier. While a reachable front-end does not serve them it neither bothers
// the CA nor gives up: tokens that would expire are published again with a later end, and whether the order is still there
// is asked afterwards.
func (i *issuance) await(ctx context.Context) error {
	a := i.j.Attempt
	const margin, extension = time.Minute, day
	for {
		end := i.extendTokens(margin, extension)
		if err := i.save(ctx); err != nil {
			return err
		}
		tokens := a.tokens()
		if err := i.client.cfg.Fleet.Present(ctx, tokens); err != nil {
			return ofFleet(err, "publishing the challenge tokens")
		}
		bounded, cancel := context.WithDeadline(ctx, end.Add(-margin))
		behind, err := i.client.cfg.Fleet.AwaitServed(bounded, tokens)
		outlived := bounded.Err() != nil && ctx.Err() == nil
		cancel()
		switch {
		case err != nil && outlived:
			continue
		case err != nil:
			return &failure{code: CodeNotServed, err: fmt.Errorf("not every front-end serves the challenge: %w", err)}
		}
		a.Behind = behind
		text := ""
		if len(behind) > 0 {
			text = "without the unreachable " + strings.Join(behind, ", ")
		}
		return i.reach(ctx, StepServed, text)
	}
}

// extendTokens gives tokens that end within twice margin a later end, and returns the earliest.
func (i *issuance) extendTokens(margin, extension time.Duration) time.Time {
	now := time.Now().UTC()
	earliest := now.Add(week)
	for n := range i.j.Attempt.Order.Challenges {
		token := &i.j.Attempt.Order.Challenges[n].Token
		if token.Expires.Before(now.Add(2 * margin)) {
			token.Expires = now.Add(extension)
		}
		if token.Expires.Before(earliest) {
			earliest = token.Expires
		}
	}
	return earliest
}

// accept tells the CA to validate what it was not told before.
func (i *issuance) accept(ctx context.Context) error {
	for _, c := range i.open {
		permitted, err := i.permit(ctx)
		if err != nil {
			return err
		}
		_, err = i.acme.Accept(permitted, &acme.Challenge{Type: "http-01", URI: c.URL, Token: c.Token.Token})
		// A CA that calls this malformed was told before: a challenge cannot be accepted twice. What became of it shows
		// in the order.
		if err != nil && !isProblem(err, "malformed") {
			return err
		}
		i.told[c.URL] = true
	}
	return i.reach(ctx, StepAccepted, "")
}

// wait returns when the order's status is another than when it was last seen.
func (i *issuance) wait(ctx context.Context) error {
	was := i.order.Status
	return poll(ctx, "order "+i.j.Attempt.Order.URL, func(ctx context.Context) (bool, error) {
		now, err := i.acme.GetOrder(ctx, i.j.Attempt.Order.URL)
		if err != nil {
			return isGone(err), ignoreGone(err) // the next look judges
		}
		return now.Status != was, nil
	})
}

func ignoreGone(err error) error {
	if isGone(err) {
		return nil
	}
	return err
}

// finalize submits the CSR. The key is on a majority of the issuers since StepIntent.
//
// Crash: the CA issues whether or not anybody hears the answer. Whoever continues finds the order processing or valid.
func (i *issuance) finalize(ctx context.Context) error {
	a := i.j.Attempt
	for _, step := range []Step{StepReady, StepFinalized} {
		if a.Step.reached(step) {
			continue
		}
		if err := i.reach(ctx, step, ""); err != nil {
			return err
		}
	}
	permitted, err := i.permit(ctx)
	if err != nil {
		return err
	}
	// The library would go on to poll without a bound; the fence ends it after the one request.
	_, _, err = i.acme.CreateCertFromOrder(withOnly(permitted, a.Order.FinalizeURL),
		&acme.Order{URI: a.Order.URL, FinalizeURL: a.Order.FinalizeURL}, a.CSR, true)
	if errors.Is(err, errFenced) || isProblem(err, "orderNotReady") { // the latter: it was finalized before
		return i.settle(ctx)
	}
	return err
}

// settle waits until the CA has begun to show what finalize did, so that it is not sent twice.
func (i *issuance) settle(ctx context.Context) error {
	i.order.Status = acme.StatusReady
	return i.wait(ctx)
}
