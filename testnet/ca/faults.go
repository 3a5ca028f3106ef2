package ca

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Faults is a script of what goes wrong between clients and the CA:
//
//	faults.On(ca.CallNewOrder).About("www.example.com").LoseAnswer()
//	faults.On(ca.CallOrder).Skip(1).Times(3).Refuse(ca.RateLimited(time.Minute))
//	held := faults.On(ca.CallFinalize).HoldAnswer()
//
// Of the rules that fit a request the first one acts that is not used up; without one the request passes. A rule acts once,
// unless Times or Always says otherwise. The zero value is an empty script; it may be written while the CA runs, and serves
// one CA. All methods may be called from any goroutine.
type Faults struct {
	mu     sync.Mutex
	rules  []*Rule         // guarded by mu, as all below
	known  map[string]what // what URLs are about, by path
	astray map[string]bool // names that the name server does not know now
	passed []Passage
	reuse  *shelf // orders as Let's Encrypt keeps them; nil: as Pebble does
}

// Passage is one request that came.
type Passage struct {
	Time   time.Time
	Call   Call
	Names  []string // that it was about, if that is known
	Status int      // what the CA said; 0: it was not asked, or has not answered
}

// Rule is one fault of the script. It is in force from the verb on that ends its sentence.
type Rule struct {
	faults  *Faults
	calls   []Call
	name    string
	happens fate

	misleads bool // the name server does not know the name while this request is looked into

	skip, left int // guarded by faults.mu, as all below; left < 0: for ever
	met        int
	changed    chan struct{} // closed and replaced when met grows
	released   chan struct{}
	isReleased bool
}

// fate does something to one request. It returns false if there was no occasion for it and the request was answered as
// ever: that does not use up the rule. It panics with http.ErrAbortHandler to cut the connection.
type fate func(*exchange) bool

// On begins a rule for requests of these kinds; of every kind if none is named.
func (f *Faults) On(calls ...Call) *Rule {
	return &Rule{faults: f, calls: calls, left: 1, changed: make(chan struct{}), released: make(chan struct{})}
}

// About narrows the rule to requests that concern name: its orders, what belongs to them, its certificates.
func (r *Rule) About(name string) *Rule { r.name = name; return r }

// Skip lets the first n requests that come to this rule go on to the next.
func (r *Rule) Skip(n int) *Rule { r.skip = n; return r }

// Times makes the rule act n times.
func (r *Rule) Times(n int) *Rule { r.left = n; return r }

// Always makes the rule act until End.
func (r *Rule) Always() *Rule { r.left = -1; return r }

// so puts the rule in force.
func (r *Rule) so(happens fate) *Rule {
	r.happens = happens
	r.faults.mu.Lock()
	defer r.faults.mu.Unlock()
	r.faults.rules = append(r.faults.rules, r)
	return r
}

// Met returns how often the rule has acted.
func (r *Rule) Met() int {
	r.faults.mu.Lock()
	defer r.faults.mu.Unlock()
	return r.met
}

// Await returns when the rule has acted n times. A request that is held counts from when it stands still.
func (r *Rule) Await(ctx context.Context, n int) error {
	for {
		r.faults.mu.Lock()
		met, changed := r.met, r.changed
		r.faults.mu.Unlock()
		if met >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: %v about %q came to pass %d of %d times", context.Cause(ctx), r.calls, r.name, met, n)
		}
	}
}

// End takes the rule out of force, and lets go whatever it holds.
func (r *Rule) End() {
	r.faults.mu.Lock()
	defer r.faults.mu.Unlock()
	r.left = 0
	if !r.isReleased {
		r.isReleased = true
		close(r.released)
	}
}

func (r *Rule) fits(call Call, w what) bool {
	return (len(r.calls) == 0 || slices.Contains(r.calls, call)) && (r.name == "" || slices.Contains(w.names, r.name))
}

// came counts one more time that the rule acted.
func (r *Rule) came() {
	r.faults.mu.Lock()
	defer r.faults.mu.Unlock()
	r.met++
	close(r.changed)
	r.changed = make(chan struct{})
}

// take returns the rule that acts on a request, used up by one.
func (f *Faults) take(call Call, w what) *Rule {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.rules {
		switch {
		case r.left == 0 || !r.fits(call, w):
			continue
		case r.skip > 0:
			r.skip--
			continue
		case r.left > 0:
			r.left--
		}
		return r
	}
	return nil
}

func (f *Faults) giveBack(r *Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.left >= 0 && !r.isReleased {
		r.left++
	}
}

// Guard returns a handler that plays the script before next, which is Pebble.
func (f *Faults) Guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x, err := f.receive(next, r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if rule := f.take(x.call, x.what); rule != nil {
			x.rule = rule
			acted := func() bool {
				defer func() {
					if cut := recover(); cut != nil {
						x.came()
						panic(cut)
					}
				}()
				return rule.happens(x)
			}()
			if acted {
				x.came()
			} else {
				f.giveBack(rule)
			}
		} else {
			x.pass()
		}
		x.answer.writeTo(w)
	})
}

// Passages returns every request so far, oldest first, or those of one kind about one name.
func (f *Faults) Passages(call Call, name string) []Passage {
	f.mu.Lock()
	defer f.mu.Unlock()
	var found []Passage
	for _, p := range f.passed {
		if (call == "" || p.Call == call) && (name == "" || slices.Contains(p.Names, name)) {
			found = append(found, p)
		}
	}
	return found
}

// Done returns how many requests of a kind about a name the CA has granted.
func (f *Faults) Done(call Call, name string) int {
	n := 0
	for _, p := range f.Passages(call, name) {
		if p.Status >= 200 && p.Status < 300 {
			n++
		}
	}
	return n
}
