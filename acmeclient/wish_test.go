package acmeclient

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/testnet/ca"
)

// A certificate is asked for although the one in force is good, and cannot be had: whoever asked is told, and nothing else is otherwise
// than before.
func TestAWishThatFailsLeavesTheCertificateAsGoodAsBefore(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault   func(*ca.Faults)
		says    string
		limited bool // the CA wants to be left alone
	}{
		"the validation fails":      {func(f *ca.Faults) { f.On(ca.CallAccept).FailValidation() }, "declared the order invalid", false},
		"the chain is a stranger's": {func(f *ca.Faults) { f.On(ca.CallCert).Always().StrangeChain() }, "not published", false},
		"the CA takes no such order": {func(f *ca.Faults) {
			f.On(ca.CallNewOrder).Always().Refuse(ca.Refusal{Status: http.StatusForbidden, Type: "rejectedIdentifier"})
		}, "the CA refused", false},
		"the CA takes no order now": {func(f *ca.Faults) { f.On(ca.CallNewOrder).Always().Refuse(ca.RateLimited(2 * time.Hour)) }, "the CA refused", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := fuse(t)
			m := newMemFleet().serving(t)
			faults := new(ca.Faults)
			r, _, _ := renewing(ctx, t, m, faults, nil)
			before := r.await(ctx, t, www, "at rest", planned)
			c.fault(faults)
			if _, err := r.renewal(ctx, t); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("whoever asked is told %v", err)
			}
			after := r.await(ctx, t, www, "at rest", planned)
			if after.LastError != "" || after.Code != "" || !after.NextAttempt.Equal(before.NextAttempt) || after.RetryAfter.IsZero() == c.limited {
				t.Errorf("before %+v, afterwards %+v", before, after)
			}
			refusal := new(Refusal)
			switch _, err := r.Obtain(ctx, www, Request{}); {
			case c.limited && (!errors.As(err, &refusal) || refusal.Code != CodeRateLimited):
				t.Errorf("the CA's wish is forgotten: %v", err)
			case !c.limited && !errors.Is(err, ErrInForce):
				t.Errorf("asked for what is there: %v", err)
			}
			r.stop()
			j := m.journalOf(t, www)
			if j.Attempt != nil || j.Failures != 0 || j.LastError != "" || !j.NextAttempt.IsZero() || j.RetryAfter.IsZero() == c.limited {
				t.Errorf("%+v", j)
			}
			if n := len(j.History); n != 2 || !strings.Contains(j.History[1].Error, c.says) {
				t.Errorf("%+v", j.History)
			}
			if n := len(m.installs()); n != 1 || m.presented() != 0 {
				t.Errorf("%d installed, %d tokens were left", n, m.presented())
			}
			if s := r.Snapshot()[0]; s.State != StateIssued || s.LastError != "" {
				t.Errorf("on a node that does not act: %+v", s)
			}
		})
	}
}

// What is due for a reason of its own is tried again by the schedule, whoever asked for it.
func TestAFailureOfWhatIsDueStays(t *testing.T) {
	t.Parallel()
	ctx := fuse(t)
	m := newMemFleet().serving(t)
	faults := new(ca.Faults)
	r, _, _ := renewing(ctx, t, m, faults, nil)
	faults.On(ca.CallNewOrder).Always().Refuse(ca.Refusal{Status: http.StatusForbidden, Type: "rejectedIdentifier"})
	if _, err := r.Revoke(ctx, www, "", "keyCompromise"); err != nil {
		t.Fatal(err)
	}
	s := r.await(ctx, t, www, "failed", func(s Status) bool { return failed(s) && !s.NextAttempt.IsZero() })
	if s.Code != CodeRefused || time.Until(s.NextAttempt) > 2*time.Hour {
		t.Errorf("%+v", s)
	}
	r.stop()
	if j := m.journalOf(t, www); j.Attempt == nil || j.Failures != 1 {
		t.Errorf("%+v", j)
	}
}

// An order that can still become a certificate is not thrown away because the first try at it failed.
func TestAWishGoesOnWithTheOrderItHas(t *testing.T) {
	t.Parallel()
	ctx := fuse(t)
	m := newMemFleet().serving(t)
	r, authority, _ := renewing(ctx, t, m, new(ca.Faults), nil)
	r.stop()
	var broken atomic.Bool
	broken.Store(true)
	m.onBarrier = func(context.Context, []Token) error {
		if broken.Load() {
			return errors.New("fe2 answers 404")
		}
		return nil
	}
	r = start(t, r.cfg, tenure{ctx: ctx})
	r.await(ctx, t, www, "at rest", planned)
	if _, err := r.renewal(ctx, t); err == nil || !strings.Contains(err.Error(), "fe2 answers 404") {
		t.Errorf("%v", err)
	}
	if s := r.await(ctx, t, www, "failed", failed); s.NextAttempt.IsZero() || s.Code != CodeNotServed {
		t.Errorf("%+v", s)
	}
	broken.Store(false)
	if o, err := r.renewal(ctx, t); err != nil || o.Serial == "" {
		t.Errorf("%+v, %v", o, err)
	}
	want(t, authority, map[ca.Kind]int{ca.Order: 2, ca.Issued: 2})
}

// later is a CA that cannot be reached until there is one.
type later struct {
	deadCA
	ca atomic.Pointer[adviser]
}

func (l *later) RoundTrip(r *http.Request) (*http.Response, error) {
	if found := l.ca.Load(); found != nil {
		return found.RoundTrip(r)
	}
	return l.deadCA.RoundTrip(r)
}

// The CA cannot be reached when somebody asks: it is tried again by the schedule until the CA is heard. If it refuses, that is the end.
func TestAWishIsTriedAgainUntilTheCAIsHeard(t *testing.T) {
	publicOf(t, ECDSAP256)
	synctest.Test(t, func(t *testing.T) {
		m, d := newMemFleet(), new(later)
		born := time.Now()
		m.held[www] = heldNow(t, 90*day)
		cfg := deadConfig(m, nil)
		cfg.Transport = d
		r := start(t, cfg, tenure{ctx: t.Context()})
		synctest.Wait()
		if _, err := r.renewal(t.Context(), t); err == nil || !strings.Contains(err.Error(), "no route to host") {
			t.Errorf("%v", err)
		}
		if s := r.Snapshot()[0]; s.State != StateFailed || s.Code != CodeUnreachable || time.Until(s.NextAttempt) > 2*time.Minute {
			t.Errorf("unheard: %+v", s)
		}
		time.Sleep(45 * time.Minute)
		if n := len(d.rounds()); n != 3 {
			t.Errorf("in 45 minutes the CA was tried %d times", n)
		}
		refusing := new(adviser)
		d.ca.Store(refusing)
		time.Sleep(58 * day)
		synctest.Wait()
		_, asked := refusing.times()
		if s := r.Snapshot()[0]; s.State != StateIssued || s.LastError != "" || !s.NextAttempt.Equal(born.Add(60*day)) || len(asked) == 0 || time.Since(asked[len(asked)-1]) < 57*day {
			t.Errorf("refused: %+v, the CA tried at %v", s, asked)
		}
		time.Sleep(time.Until(born.Add(60*day)) + 10*time.Second)
		synctest.Wait()
		if s := r.Snapshot()[0]; s.State != StateFailed || s.Code != CodeRefused || time.Until(s.NextAttempt) > 2*time.Minute {
			t.Errorf("when it is due: %+v", s)
		}
		r.stop()
	})
}

// Journals of earlier versions have failures in them that are of no consequence.
func TestAnOldFailureOfWhatIsNotDueIsForgotten(t *testing.T) {
	publicOf(t, ECDSAP256)
	synctest.Test(t, func(t *testing.T) {
		m, d := newMemFleet(), new(deadCA)
		held := ours(t, m, 90*day)
		j := m.journalOf(t, www)
		j.Failures, j.LastError, j.LastCode, j.NextAttempt = 1, "the CA declared the order invalid", CodeNotServed, time.Now().Add(100*day)
		content, err := json.Marshal(j)
		if err == nil {
			err = m.Save(t.Context(), journalPath(www), content)
		}
		if err != nil {
			t.Fatal(err)
		}
		cfg := deadConfig(m, d)
		cfg.NoARI = true
		r := start(t, cfg, tenure{ctx: t.Context()})
		synctest.Wait()
		due := held.Leaf.NotAfter.Add(-30 * day)
		if s := r.Snapshot()[0]; s.State != StateIssued || s.LastError != "" || s.NextAttempt.Sub(due).Abs() > time.Second {
			t.Errorf("%+v", s)
		}
		r.stop()
		if s := r.Snapshot()[0]; s.State != StateIssued || s.LastError != "" {
			t.Errorf("on a node that does not act: %+v", s)
		}
	})
}

func TestWhatIsWorthGoingOnWith(t *testing.T) {
	alive, dead := &order{Placed: birth, Expires: birth.Add(day)}, &order{Placed: birth.Add(-2 * day), Expires: birth.Add(-day)}
	for name, c := range map[string]struct {
		a    attempt
		want bool
	}{
		"nothing was ordered":              {attempt{Step: StepIntent}, false},
		"an order":                         {attempt{Step: StepPresented, Order: alive}, true},
		"an order past its end":            {attempt{Step: StepPresented, Order: dead}, false},
		"others replace the certificate":   {attempt{Step: StepIntent, Contested: true}, true},
		"... and it is ordered regardless": {attempt{Step: StepIntent, Contested: true, Alone: true}, false},
	} {
		if got := c.a.promising(birth); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// The order vanished, and the budget allows no other: that is the end of a wish too.
func TestAWishBeyondTheBudgetIsOver(t *testing.T) {
	t.Parallel()
	ctx := fuse(t)
	m := newMemFleet().serving(t)
	r, authority, cfg := renewing(ctx, t, m, new(ca.Faults), nil)
	r.stop()
	m.onBarrier = func(context.Context, []Token) error {
		authority.Forget()
		return nil
	}
	r = start(t, cfg, tenure{ctx: ctx})
	r.await(ctx, t, www, "at rest", planned)
	if _, err := r.renewal(ctx, t); err == nil || !strings.Contains(err.Error(), "2 of 2 orders per day are used up") {
		t.Errorf("%v", err)
	}
	if s := r.await(ctx, t, www, "at rest", planned); s.LastError != "" || time.Until(s.NextAttempt) < 59*day {
		t.Errorf("%+v", s)
	}
	want(t, authority, map[ca.Kind]int{ca.Order: 2, ca.Issued: 1})
}

// Whoever makes one attempt is told that it failed, though nothing of it is left.
func TestRunOneTellsOfAFailureThatLeavesNothing(t *testing.T) {
	publicOf(t, ECDSAP256)
	synctest.Test(t, func(t *testing.T) {
		m := newMemFleet()
		m.held[www] = heldNow(t, 90*day)
		c, err := New(advised(m, new(adviser)))
		if err != nil {
			t.Fatal(err)
		}
		if err := runOne(t.Context(), c, www, nil); err == nil || !strings.Contains(err.Error(), "the CA refused") {
			t.Errorf("%v", err)
		}
		if s := c.Snapshot()[0]; s.State != StateIssued || s.LastError != "" {
			t.Errorf("%+v", s)
		}
	})
}
