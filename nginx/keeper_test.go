package nginx_test

import (
	"context"
	"fmt"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/nginx"
)

// recorder is an Applier that takes a while and writes down what it is called for.
type recorder struct {
	start time.Time
	takes time.Duration
	calls []string
	busy  bool
}

func (r *recorder) Apply(_ context.Context, installs []nginx.Install) nginx.Report {
	if r.busy {
		panic("two at a time")
	}
	r.busy = true
	call := fmt.Sprint(time.Since(r.start), ":")
	for _, i := range installs {
		call += fmt.Sprintf(" %s@%d", i.Name, i.Generation)
	}
	r.calls = append(r.calls, call)
	time.Sleep(r.takes) // virtual: tests run it in a bubble
	r.busy = false
	return nginx.Report{}
}

func TestKeeper(t *testing.T) {
	a := func(generation int) nginx.Install { return nginx.Install{Name: "a", Generation: generation} }
	b := nginx.Install{Name: "b", Generation: 1}
	now := a(9)
	now.Urgent = true
	type notice struct {
		at       time.Duration
		installs []nginx.Install
	}
	for _, c := range []struct {
		name    string
		takes   time.Duration
		notices []notice
		want    []string
	}{
		{"notices that come together are one", 0, []notice{{0, []nginx.Install{a(1)}}, {10 * time.Millisecond, []nginx.Install{b}}, {49 * time.Millisecond, []nginx.Install{a(2)}}},
			[]string{"50ms: a@2 b@1"}},
		{"the next waits for its turn", 0, []notice{{0, []nginx.Install{a(1)}}, {time.Second, []nginx.Install{a(2)}}, {1500 * time.Millisecond, []nginx.Install{a(3)}}},
			[]string{"50ms: a@1", "2.05s: a@3"}},
		{"an urgent one does not wait, and takes the others along", 0, []notice{{0, []nginx.Install{a(1)}}, {time.Second, []nginx.Install{b}}, {1500 * time.Millisecond, []nginx.Install{now}}},
			[]string{"50ms: a@1", "1.5s: a@9 b@1"}},
		{"what comes while one is under way is next", 5 * time.Second, []notice{{0, []nginx.Install{a(1)}}, {time.Second, []nginx.Install{a(2)}}},
			[]string{"50ms: a@1", "5.1s: a@2"}},
		{"changes by others", 0, []notice{{0, nil}, {time.Millisecond, nil}, {2 * time.Millisecond, []nginx.Install{b}}},
			[]string{"50ms: b@1", "50ms:"}},
		{"a quiet time earns no credit", 0, []notice{{time.Minute, []nginx.Install{a(1)}}, {61 * time.Second, []nginx.Install{a(2)}}},
			[]string{"1m0.05s: a@1", "1m2.05s: a@2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &recorder{start: time.Now(), takes: c.takes}
				reports := 0
				k := nginx.NewKeeper(r, func(nginx.Report) { reports++ })
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan struct{})
				go func() { defer close(ended); k.Run(ctx) }()
				for _, n := range c.notices {
					time.Sleep(time.Until(r.start.Add(n.at)))
					k.Notify(n.installs...)
				}
				time.Sleep(time.Minute)
				cancel()
				<-ended
				if !reflect.DeepEqual(r.calls, c.want) || reports != len(c.want) {
					t.Errorf("calls %q, not %q; %d reports", r.calls, c.want, reports)
				}
			})
		})
	}
}
