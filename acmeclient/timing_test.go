package acmeclient

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/testnet/ca"
)

// These tests run in virtual time: what is measured is exact.

// deadCA is a CA that cannot be reached, and remembers when it was tried.
type deadCA struct {
	mu    sync.Mutex
	tried []time.Time
}

func (d *deadCA) RoundTrip(*http.Request) (*http.Response, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tried = append(d.tried, time.Now())
	return nil, errors.New("no route to host")
}

// rounds returns when each round of tries began; the tries within one are seconds apart.
func (d *deadCA) rounds() (rounds []time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, at := range d.tried {
		if i == 0 || at.Sub(d.tried[i-1]) > 10*time.Second {
			rounds = append(rounds, at)
		}
	}
	return rounds
}

func deadConfig(m *memFleet, d *deadCA) Config {
	return Config{
		Directory:    "https://ca.invalid/dir",
		Certificates: []Certificate{{Name: www, Names: []string{www}}},
		Transport:    d,
		Node:         "fe1",
		Fleet:        m,
	}
}

// heldNow returns a certificate made just now that lives for life.
func heldNow(t *testing.T, life time.Duration) *Held {
	held := aged(t, life, ECDSAP256, www)
	held.Leaf.NotBefore, held.Leaf.NotAfter = time.Now(), time.Now().Add(life)
	return held
}

func TestUnreachableCAIsTriedByTheScheduleAndNoCertificateExpiresMeanwhile(t *testing.T) {
	publicOf(t, ECDSAP256)
	synctest.Test(t, func(t *testing.T) {
		born := time.Now()
		m, d := newMemFleet(), new(deadCA)
		m.held[www] = heldNow(t, 90*day)
		r := start(t, deadConfig(m, d), tenure{ctx: t.Context()})

		time.Sleep(60*day - time.Second)
		synctest.Wait()
		if n := len(d.rounds()); n != 0 {
			t.Fatalf("tried %d times before it was due", n)
		}
		if s := r.Snapshot()[0]; s.State != StateIssued || !s.NextAttempt.Equal(born.Add(60*day)) {
			t.Errorf("while it rests: %+v", s)
		}
		time.Sleep(30 * day)
		synctest.Wait()
		rounds := d.rounds()
		if late := rounds[0].Sub(born.Add(60 * day)); late < 0 || late > time.Second {
			t.Errorf("the first try came %v late", late)
		}
		schedule := []time.Duration{time.Minute, 10 * time.Minute, 100 * time.Minute, 24 * time.Hour}
		const inRound = 4 * time.Second // the tries within a round
		for i, at := range rounds[1:] {
			gap, planned := at.Sub(rounds[i]), schedule[min(i, 3)]
			if i < 10 && gap < planned/2 || gap > planned*3/2+inRound {
				t.Errorf("round %d came %v after the one before; planned %v", i+2, gap, planned)
			}
		}
		if left := born.Add(90 * day).Sub(rounds[len(rounds)-1]); left > 2*time.Minute {
			t.Errorf("the last try was made %v before the certificate ended", left)
		}
		if s := r.Snapshot()[0]; s.Code != CodeUnreachable {
			t.Errorf("afterwards: %+v", s)
		}
		r.stop()
		if m.journalOf(t, www).Attempt == nil {
			t.Error("the key and the CSR of the attempt were forgotten")
		}
	})
}

func TestTheNextHolderInheritsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, d := newMemFleet(), new(deadCA)
		cfg := deadConfig(m, d)
		cfg.Retry = []time.Duration{10 * time.Hour}
		first := start(t, cfg, tenure{ctx: t.Context()})
		time.Sleep(time.Minute)
		first.stop()
		planned := m.journalOf(t, www).NextAttempt
		if s := first.Snapshot()[0]; s.State != StateFailed || !s.NextAttempt.IsZero() {
			t.Errorf("on a node that does not act: %+v", s)
		}

		cfg.Node = "fe2"
		second := start(t, cfg, tenure{ctx: t.Context()})
		time.Sleep(16 * time.Hour)
		second.stop()
		rounds := d.rounds()
		if len(rounds) < 2 || rounds[1].Before(planned) || rounds[1].Sub(planned) > time.Second {
			t.Errorf("tried at %v; planned was %v", rounds, planned)
		}
	})
}

func TestACertificateRenewedByOthersIsNotAskedFor(t *testing.T) {
	publicOf(t, ECDSAP256)
	synctest.Test(t, func(t *testing.T) {
		m, d := newMemFleet(), new(deadCA)
		m.held[www] = heldNow(t, 90*day)
		r := start(t, deadConfig(m, d), tenure{ctx: t.Context()})
		time.Sleep(60*day - time.Minute)
		m.mu.Lock()
		m.held[www] = heldNow(t, 90*day)
		m.mu.Unlock()
		time.Sleep(59 * day)
		r.stop()
		if n := len(d.rounds()); n != 0 {
			t.Errorf("the CA was tried %d times", n)
		}
	})
}

func TestNothingIsAskedOfTheCABeforeTheKeyIsDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, d := newMemFleet(), new(deadCA)
		began := time.Now()
		m.onSave = func(_ string, _ []byte, store func()) error {
			if time.Since(began) < time.Hour {
				return errors.New("no majority")
			}
			store()
			return nil
		}
		r := start(t, deadConfig(m, d), tenure{ctx: t.Context()})
		time.Sleep(2 * time.Hour)
		r.stop()
		rounds := d.rounds()
		if len(rounds) == 0 || rounds[0].Sub(began) < time.Hour || rounds[0].Sub(began) > time.Hour+time.Minute {
			t.Errorf("the CA was tried at %v; a majority was there after %v", rounds, began.Add(time.Hour))
		}
	})
}

func TestPokeNeedsAuthority(t *testing.T) {
	c, err := New(deadConfig(newMemFleet(), new(deadCA)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := poke(t.Context(), c, www, true); !errors.Is(err, ErrNotActing) {
		t.Errorf("without authority: %v", err)
	}
	if _, err := poke(t.Context(), c, "unknown", true); err == nil || errors.Is(err, ErrNotActing) {
		t.Errorf("of an undeclared certificate: %v", err)
	}
}

func TestPollIsBounded(t *testing.T) {
	for name, c := range map[string]struct {
		asked    time.Duration // Retry-After of every answer
		settles  time.Duration // 0: never
		min, max int           // polls
		wantErr  bool
	}{
		"settled soon":                     {settles: 250 * time.Millisecond, min: 3, max: 3},
		"settled after a minute":           {settles: time.Minute, min: 55, max: 65},
		"the CA asks for more time":        {asked: 20 * time.Second, settles: time.Minute, min: 4, max: 4},
		"the CA asks for hardly any":       {asked: time.Nanosecond, settles: time.Minute, min: 55, max: 65},
		"never settled":                    {min: 290, max: 310, wantErr: true},
		"the CA asks for a year":           {asked: 366 * day, settles: time.Minute, min: 1, max: 1, wantErr: true},
		"the CA asks for more than we are": {asked: time.Hour, settles: time.Minute, min: 1, max: 1, wantErr: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, polls := time.Now(), 0
				err := poll(t.Context(), "it", func(ctx context.Context) (bool, error) {
					polls++
					*ctx.Value(waitKey{}).(*time.Duration) = c.asked
					return c.settles > 0 && time.Since(began) >= c.settles, nil
				})
				if polls < c.min || polls > c.max || (err != nil) != c.wantErr || time.Since(began) > pollLimit {
					t.Errorf("%d polls in %v: %v", polls, time.Since(began), err)
				}
				if f := diagnose(err, time.Now()); err != nil && (f.until.Before(began.Add(min(c.asked, pollWish))) || f.until.After(began.Add(pollLimit+pollWish))) {
					t.Errorf("the CA's wish is forgotten, or taken for an order: %v", f.until)
				}
			})
		})
	}
}

// A front-end that does not serve for days must not cost orders: the tokens are kept alive instead.
func TestTokensOutliveALongBarrier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemFleet()
		healed := make(chan struct{})
		m.onBarrier = func(ctx context.Context, tokens []Token) error {
			if slices.ContainsFunc(tokens, func(t Token) bool { return !t.Expires.After(time.Now()) }) {
				return errors.New("an expired token was presented")
			}
			select {
			case <-healed:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		c, err := New(deadConfig(m, new(deadCA)))
		if err != nil {
			t.Fatal(err)
		}
		i := &issuance{
			session: &session{ctx: t.Context(), client: c, authority: tenure{ctx: t.Context()}, directory: c.cfg.Directory},
			w:       c.workers[0],
			j: &journal{Version: journalVersion, Name: www, Attempt: &attempt{Step: StepPresented, Order: &order{
				Challenges: []challenge{{Token: Token{Token: "t", Host: www, Expires: time.Now().Add(time.Hour)}}},
			}}},
		}
		done := make(chan error, 1)
		go func() { done <- i.await(t.Context()) }()
		time.Sleep(3 * day)
		close(healed)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if a := m.journalOf(t, www).Attempt; a.Step != StepServed || !a.Order.Challenges[0].Token.Expires.After(time.Now()) {
			t.Errorf("%+v", a)
		}
	})
}

// Whoever acts beside the workers has left before Run returns, and nobody comes in afterwards.
func TestRunWaitsForWhoeverActsBesideTheWorkers(t *testing.T) {
	publicOf(t, ECDSAP256)
	synctest.Test(t, func(t *testing.T) {
		m := newMemFleet()
		m.held[www] = heldNow(t, 90*day)
		r := start(t, deadConfig(m, new(deadCA)), tenure{ctx: t.Context()})
		synctest.Wait()
		s, leave, err := r.enter(r.cfg.Directory)
		if err != nil {
			t.Fatal(err)
		}
		r.end()
		time.Sleep(time.Minute)
		synctest.Wait()
		if s.ctx.Err() == nil {
			t.Error("a guest is not told that the tenure has ended")
		}
		select {
		case <-r.done:
			t.Error("Run returned while somebody was acting")
		default:
		}
		leave()
		<-r.done
		if _, _, err := r.enter(r.cfg.Directory); !errors.Is(err, ErrNotActing) {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// Who counts orders is not asked to while none can be sent, and is asked before one is.
// runOne is a visit for one certificate.
func runOne(ctx context.Context, c *Client, name string, count func() error) error {
	v, err := c.Visit(ctx, tenure{ctx: ctx})
	if err != nil {
		return err
	}
	defer v.End()
	return v.RunOne(name, count)
}

func TestAnOrderIsCountedBeforeItIsSentAndNotSooner(t *testing.T) {
	t.Run("the CA cannot be reached", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, err := New(deadConfig(newMemFleet(), new(deadCA)))
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if err := runOne(t.Context(), c, www, func() error { t.Error("counted"); return nil }); err == nil {
					t.Error("no error")
				}
			}
		})
	})
	t.Run("the disk is full at first", func(t *testing.T) {
		t.Parallel()
		ctx := fuse(t)
		m := newMemFleet().serving(t)
		authority := startCA(t, m, nil)
		c, err := New(configFor(m, authority))
		if err != nil {
			t.Fatal(err)
		}
		counted := 0
		err = runOne(ctx, c, www, func() error {
			counted++
			want(t, authority, map[ca.Kind]int{ca.Order: 0})
			if counted == 1 {
				return errors.New("no space left on device")
			}
			return nil
		})
		if err != nil || counted != 2 {
			t.Errorf("asked %d times: %v", counted, err)
		}
		want(t, authority, map[ca.Kind]int{ca.Order: 1, ca.Issued: 1})
		r := start(t, c.cfg, tenure{ctx: ctx})
		r.await(ctx, t, www, "at rest", planned)
		if _, err := r.renewal(ctx, t); err != nil {
			t.Fatal(err)
		}
		if history, err := c.History(www); err != nil || len(history) != 2 || history[0].Unleased || !history[1].Unleased {
			t.Errorf("which one was made without the lease is not told: %+v, %v", history, err)
		}
	})
}

// Near its end a tenure begins nothing new: what is asked for then is not promised, and waits, or hears that the tenure is over.
func TestNothingIsPromisedThatMayNotBegin(t *testing.T) {
	publicOf(t, ECDSAP256)
	synctest.Test(t, func(t *testing.T) {
		m, d := newMemFleet(), new(deadCA)
		m.held[www] = heldNow(t, 90*day)
		from := time.Now().Add(time.Minute)
		begin := func() error {
			if time.Now().Before(from) {
				return errors.New("the lease is about to end")
			}
			return nil
		}
		r := start(t, deadConfig(m, d), tenure{ctx: t.Context(), begin: begin})
		synctest.Wait()
		ticket, err := r.Obtain(t.Context(), www, Request{Renew: true})
		if late := time.Since(from); err != nil || late < 0 || late > 2*time.Second {
			t.Errorf("promised %v after it might begin: %v", late, err)
		}
		synctest.Wait()
		if a := m.journalOf(t, www).Attempt; a == nil || a.ID != ticket.Attempt {
			t.Errorf("%s was promised, and %+v begun", ticket.Attempt, a)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		m := newMemFleet()
		m.held[www] = heldNow(t, 90*day)
		r := start(t, deadConfig(m, new(deadCA)), tenure{ctx: t.Context(), begin: func() error { return errors.New("the lease is about to end") }})
		synctest.Wait()
		time.AfterFunc(10*time.Second, r.end)
		if ticket, err := r.Obtain(t.Context(), www, Request{Renew: true}); !errors.Is(err, ErrNotActing) {
			t.Errorf("promised %+v, %v", ticket, err)
		}
	})
}
