package acmeclient

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func TestAJournalThatCannotBeReadIsBegunAnew(t *testing.T) {
	good, err := json.Marshal(journal{Version: journalVersion, Name: www, Failures: 3})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		content  string
		err      error
		failures int
		wantErr  bool
	}{
		"good":           {content: string(good), failures: 3},
		"never saved":    {err: fmt.Errorf("x: %w", fs.ErrNotExist)},
		"unreadable":     {err: errors.New("EIO"), wantErr: true},
		"damaged":        {content: string(good[:20]), wantErr: true},
		"empty":          {content: "", wantErr: true},
		"of the future":  {content: `{"version": 2, "name": "www.example.com", "failures": 3}`, wantErr: true},
		"somebody else":  {content: `{"version": 1, "name": "example.com", "failures": 3}`, wantErr: true},
		"a broken epoch": {content: `{"version": 1, "name": "www.example.com", "epoch": "x"}`, wantErr: true},
	} {
		j, err := decodeJournal(www, []byte(c.content), c.err)
		if j == nil || j.Name != www || j.Failures != c.failures || (err != nil) != c.wantErr {
			t.Errorf("%s: %+v, %v", name, j, err)
		}
	}
}

// An open-files limit, or a disk that coughs, must cost neither the order under way nor what was counted.
func TestAJournalThatCannotBeReadJustNowIsReadAgain(t *testing.T) {
	publicOf(t, ECDSAP256)
	for name, left := range map[string]time.Duration{"there is time": 20 * day, "there is none": 2 * day} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, d := newMemFleet(), new(deadCA)
				m.held[www] = heldNow(t, 90*day)
				m.held[www].Leaf.NotBefore, m.held[www].Leaf.NotAfter = time.Now().Add(left-90*day), time.Now().Add(left)
				cfg := deadConfig(m, d)
				cert, err := validate(cfg.Certificates[0])
				if err != nil {
					t.Fatal(err)
				}
				content, err := json.Marshal(journal{Version: journalVersion, Name: www, Declared: cert.declaration(), Orders: []mark{{time.Now(), www}}})
				if err == nil {
					err = m.Save(t.Context(), journalPath(www), content)
				}
				if err != nil {
					t.Fatal(err)
				}
				var sick atomic.Bool
				sick.Store(true)
				m.onLoad = func(path string) error {
					if sick.Load() && path == journalPath(www) {
						return errors.New("too many open files")
					}
					return nil
				}
				r := start(t, cfg, tenure{ctx: t.Context()})
				time.Sleep(9 * time.Minute)
				synctest.Wait()
				if _, err := r.Obtain(t.Context(), www, Request{Renew: true}); err == nil || !strings.Contains(err.Error(), "too many open files") {
					t.Errorf("asked for: %v", err)
				}
				if s := r.Snapshot()[0]; s.State != StateFailed || !strings.Contains(s.LastError, "too many open files") || len(d.rounds()) != 0 {
					t.Errorf("%+v, the CA tried at %v", s, d.rounds())
				}
				if left > 10*day {
					time.Sleep(time.Hour)
				} else {
					time.Sleep(2 * time.Minute)
				}
				sick.Store(false)
				time.Sleep(2 * time.Minute)
				r.stop()
				j := m.journalOf(t, www)
				if anew := len(j.Orders) == 0; anew != (left < 10*day) || len(d.rounds()) == 0 {
					t.Errorf("%+v, the CA tried at %v", j, d.rounds())
				}
			})
		})
	}
}

func TestAnotherDeclarationEndsTheAttemptButNotTheBudget(t *testing.T) {
	j := &journal{Declared: "old", Failures: 4, NextAttempt: birth.Add(day), RetryAfter: birth.Add(time.Hour), LastError: "x", LastCode: CodeRefused,
		Orders:  []mark{{birth, www}},
		Attempt: &attempt{ID: "1", Order: &order{Challenges: []challenge{{Token: Token{Token: "t"}}}}}}
	j.declare("old", "https://ca/dir", birth)
	if j.Attempt == nil || j.Failures != 4 {
		t.Fatalf("the same declaration changed %+v", j)
	}
	j.declare("new", "https://ca/dir", birth)
	if j.Attempt != nil || len(j.Cleanup) != 1 || len(j.History) != 1 || j.Failures != 0 || !j.NextAttempt.IsZero() || j.LastError != "" {
		t.Errorf("%+v", j)
	}
	if len(j.Orders) != 1 || j.RetryAfter.IsZero() {
		t.Errorf("the budget or the CA's word was forgotten: %+v", j)
	}
}

func TestPruneForgetsOnlyWhatNoLongerCounts(t *testing.T) {
	j := &journal{
		Orders:  []mark{{birth.Add(-8 * day), www}, {birth.Add(-6 * day), www}},
		Invalid: []mark{{birth.Add(-time.Hour), www}, {birth.Add(-time.Minute), www}},
	}
	for n := range 50 {
		j.History = append(j.History, Outcome{Attempt: fmt.Sprint(n)})
		j.Issued = append(j.Issued, origin{Leaf: fmt.Sprint(n)})
	}
	j.prune(birth)
	if len(j.Orders) != 1 || len(j.Invalid) != 1 || len(j.History) != historyLength || j.History[historyLength-1].Attempt != "49" ||
		!slices.Equal(j.Issued, []origin{{Leaf: "46"}, {Leaf: "47"}, {Leaf: "48"}, {Leaf: "49"}}) {
		t.Errorf("%+v", j)
	}
}

func TestBudget(t *testing.T) {
	budget := Budget{OrdersPerDay: 2, OrdersPerWeek: 4, FailuresPerHour: 4}
	ago := func(times ...time.Duration) (marks []mark) {
		for _, d := range times {
			marks = append(marks, mark{birth.Add(-d), www})
		}
		return marks
	}
	for name, c := range map[string]struct {
		j          journal
		wait       time.Duration // until it is possible again; 0: now
		forcedWait time.Duration
	}{
		"nothing yet":            {},
		"one today":              {j: journal{Orders: ago(time.Hour)}},
		"two today":              {j: journal{Orders: ago(3*time.Hour, time.Hour)}, wait: 21 * time.Hour},
		"two, one of yesterday":  {j: journal{Orders: ago(25*time.Hour, time.Hour)}},
		"four this week":         {j: journal{Orders: ago(6*day, 5*day, 4*day, 3*day)}, wait: day},
		"six this week":          {j: journal{Orders: ago(6*day, 5*day, 4*day, 3*day, time.Hour, 0)}, wait: 3 * day},
		"another set of names":   {j: journal{Orders: []mark{{birth, "a"}, {birth, "a"}}}},
		"four failures":          {j: journal{Invalid: ago(50*time.Minute, 3*time.Minute, 2*time.Minute, 0)}, wait: 10 * time.Minute, forcedWait: 10 * time.Minute},
		"both, the later counts": {j: journal{Orders: ago(2*time.Hour, 0), Invalid: ago(0, 0, 0, 0)}, wait: 22 * time.Hour, forcedWait: time.Hour},
	} {
		for force, wait := range map[bool]time.Duration{false: c.wait, true: c.forcedWait} {
			r := budget.refuses(&c.j, www, force, birth)
			if (r == nil) != (wait == 0) || r != nil && !r.Until.Equal(birth.Add(wait)) {
				t.Errorf("%s, force %v: %v, not after %v", name, force, r, wait)
			}
		}
	}
	if r := (Budget{OrdersPerWeek: 1, FailuresPerHour: 1}).refuses(new(journal), www, false, birth); r == nil || !r.Until.Equal(birth.Add(day)) {
		t.Errorf("a budget of nothing: %v", r)
	}
}

func TestBackoffFollowsTheScheduleWithinHalf(t *testing.T) {
	schedule := []time.Duration{time.Minute, 10 * time.Minute, 100 * time.Minute, 24 * time.Hour}
	rapid.Check(t, func(t *rapid.T) {
		failures := rapid.IntRange(1, 1000).Draw(t, "failures")
		random := rapid.Float64Range(0, 0.999999).Draw(t, "random")
		planned := schedule[min(failures, 4)-1]
		if got := backoff(schedule, failures, random); got < planned/2 || got > planned*3/2 {
			t.Fatalf("failure %d waits %v", failures, got)
		}
	})
}

func TestNoWaitOutlivesTheCertificate(t *testing.T) {
	held := aged(t, 160*time.Hour, ECDSAP256, www)
	for left, want := range map[time.Duration]time.Duration{
		1000 * time.Hour: 24 * time.Hour,
		80 * time.Hour:   8 * time.Hour,
		time.Hour:        6 * time.Minute,
		time.Second:      time.Minute,
		-time.Hour:       time.Minute,
	} {
		if got := urgent(24*time.Hour, held, held.Leaf.NotAfter.Add(-left)); got != want {
			t.Errorf("%v before its end the wait is %v, not %v", left, got, want)
		}
	}
	if got := urgent(24*time.Hour, nil, birth); got != 24*time.Hour {
		t.Errorf("with nothing to lose the wait is %v", got)
	}
}

func TestRetryAfter(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"":                              0,
		"120":                           2 * time.Minute,
		"0":                             0,
		"-5":                            0,
		"soon":                          0,
		"99999999999999999":             maxRetryAfter,
		"Sun, 01 Mar 2026 12:00:30 GMT": 30 * time.Second,
		"Sun, 01 Mar 2026 11:00:00 GMT": 0,
		"Fri, 01 Mar 2999 11:00:00 GMT": maxRetryAfter,
	} {
		if got := retryAfter(http.Header{"Retry-After": {text}}, birth); got != want {
			t.Errorf("Retry-After: %s is %v, not %v", text, got, want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	const directory = "https://ca.example/dir"
	one := func(change func(*Certificate)) Config {
		c := Certificate{Name: www, Names: []string{www}}
		change(&c)
		return Config{Directory: directory, Certificates: []Certificate{c}}
	}
	good := one(func(c *Certificate) { c.Names = []string{"WWW.example.com."} })
	if c, err := New(good); err != nil || c.workers[0].cert.Names[0] != www || c.workers[0].cert.Key != ECDSAP256 {
		t.Fatalf("a good configuration: %+v, %v", c, err)
	}
	for name, cfg := range map[string]Config{
		"no directory":       {},
		"plain HTTP":         {Directory: "http://ca.example/dir"},
		"no names":           one(func(c *Certificate) { c.Names = nil }),
		"a wildcard":         one(func(c *Certificate) { c.Names = []string{"*.example.com"} }),
		"an address":         one(func(c *Certificate) { c.Names = []string{"2001:db8::1"} }),
		"a name twice":       one(func(c *Certificate) { c.Names = []string{www, "WWW.example.com"} }),
		"a name that climbs": one(func(c *Certificate) { c.Name = "../x" }),
		"an unknown key":     one(func(c *Certificate) { c.Key = "dsa" }),
		"declared twice":     {Directory: directory, Certificates: append(good.Certificates, good.Certificates...)},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
