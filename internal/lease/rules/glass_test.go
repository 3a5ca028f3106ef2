package rules_test

import (
	"testing"
	"time"

	"certswarm/internal/fleet"
	"certswarm/internal/lease/rules"

	"pgregory.net/rapid"
)

const life = 90 * 24 * time.Hour

var epoch = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// aCase is a 90-day certificate of a fleet of three that has had no lease for a month, seen by whoever comes first in rank.
func aCase(issuers ...int) rules.Case {
	c := rules.Case{
		Names: []string{"www.example.com", "example.com"}, NotAfter: epoch.Add(life), Due: life / 3, Voters: 3,
		Silent: epoch, After: 10 * time.Minute,
	}
	for _, n := range issuers {
		c.Issuers = append(c.Issuers, node(n))
	}
	c.Self = c.Issuers[0]
	return c
}

// when walks a case through time as an agent would, asking when it is told to, and returns how much life was left when it ordered.
func when(t rapid.TB, c rules.Case) (left time.Duration, ordered bool) {
	t.Helper()
	now := epoch
	for range 1000 {
		v := rules.JudgeGlass(c, now)
		switch v.Answer {
		case rules.Leave:
			return 0, false
		case rules.Later:
			if !v.At.After(now) {
				t.Fatalf("later is not later: %v at %v", v, now)
			}
			now = v.At
		case rules.Ask:
			c.Asked = now
		case rules.Order:
			return c.NotAfter.Sub(now), true
		}
	}
	t.Fatal("it never came to an end")
	return 0, false
}

func TestEverybodyAloneActsInTimeAndInTurn(t *testing.T) {
	urgent := life / 3 / 2
	seen := map[time.Duration]bool{}
	for self := 1; self <= 5; self++ {
		c := aCase(1, 2, 3, 4, 5)
		c.Self = node(self)
		left, ordered := when(t, c)
		if !ordered || left > urgent || left < urgent/4 {
			t.Errorf("node %d orders with %v left, want between %v and %v", self, left, urgent, urgent/4)
		}
		if seen[left] {
			t.Errorf("two orders with %v left", left)
		}
		seen[left] = true
	}
	if !seen[urgent] || !seen[urgent/4] {
		t.Errorf("the first should order with %v left and the last with %v: %v", urgent, urgent/4, seen)
	}
}

func TestThoseWhoSeeEachOtherLeaveItToTheFirst(t *testing.T) {
	last := life / 3 / 2 / 4
	var orders []time.Duration
	for self := 1; self <= 3; self++ {
		c := aCase(1, 2, 3)
		c.Self = node(self)
		c.Reachable = []fleet.NodeID{node(1), node(2), node(3)}
		left, _ := when(t, c)
		orders = append(orders, left)
	}
	first := 0
	for _, left := range orders {
		switch {
		case left == life/3/2:
			first++
		case left > last || left <= 0:
			t.Errorf("one that could leave it to another orders with %v left", left)
		}
	}
	if first != 1 {
		t.Errorf("%d order first: %v", first, orders)
	}
}

// The lease may be lost when the turns of all are over, or there may be no certificate: still no two that reach each other begin within the time that it
// takes to ask, and nobody waits until it is too late.
func TestNoTwoBeginAtOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := aCase(1, 2, 3, 4, 5)
		c.Voters = rapid.SampledFrom([]int{2, 3, 5}).Draw(t, "voters")
		if c.Voters < 3 {
			c = aCase(1, 2)
			c.Voters = 2
		}
		left := time.Duration(rapid.IntRange(2, int(life/time.Minute)).Draw(t, "minutes left when the lease is given up")) * time.Minute
		c.Silent = c.NotAfter.Add(-left - c.After)
		seesAll := rapid.Bool().Draw(t, "they reach each other")
		if seesAll {
			c.Reachable = c.Issuers
		}
		begun := map[time.Duration]fleet.NodeID{}
		for _, c.Self = range c.Issuers {
			at, ordered := when(t, c)
			if !ordered || at <= 0 {
				t.Fatalf("with %v left at first, %s orders %v after the end", left, c.Self.Short(), -at)
			}
			for other, who := range begun {
				if gap := (at - other).Abs(); gap < min(left/20, 30*time.Second) {
					t.Fatalf("with %v left at first, %s and %s order within %v", left, who.Short(), c.Self.Short(), gap)
				}
			}
			begun[at] = c.Self
		}
	})
}

func TestGlass(t *testing.T) {
	soon := func(c *rules.Case) { c.NotAfter = epoch.Add(24 * time.Hour) }
	for _, k := range []struct {
		name string
		edit func(*rules.Case)
		now  time.Duration
		want rules.Answer
	}{
		{"plenty of life", func(*rules.Case) {}, time.Hour, rules.Later},
		{"urgent, but the lease was renewed a moment ago", func(c *rules.Case) { soon(c); c.Silent = epoch.Add(55 * time.Minute) }, time.Hour, rules.Later},
		{"urgent", soon, time.Hour, rules.Ask},
		{"urgent and asked", func(c *rules.Case) { soon(c); c.Asked = epoch.Add(time.Hour) }, time.Hour, rules.Order},
		{"asked too long ago", func(c *rules.Case) { soon(c); c.Asked = epoch }, time.Hour, rules.Ask},
		{"somebody was faster", func(c *rules.Case) { soon(c); c.Asked = epoch.Add(time.Hour); c.Newer = true }, time.Hour, rules.Later},
		{"no certificate at all", func(c *rules.Case) { c.NotAfter = time.Time{} }, time.Hour, rules.Ask},
		{"no certificate, and no lease for five minutes", func(c *rules.Case) { c.NotAfter = time.Time{} }, 5 * time.Minute, rules.Later},
		{"one order today", func(c *rules.Case) { soon(c); c.Orders = []time.Time{epoch} }, time.Hour, rules.Later},
		{"one order yesterday", func(c *rules.Case) { soon(c); c.Orders = []time.Time{epoch.Add(-24 * time.Hour)} }, time.Hour, rules.Ask},
		{"two in the week", func(c *rules.Case) {
			soon(c)
			c.Orders = []time.Time{epoch.Add(-100 * time.Hour), epoch.Add(-50 * time.Hour)}
		}, time.Hour, rules.Later},
		{"a failed validation half an hour ago", func(c *rules.Case) { soon(c); c.Failures = []time.Time{epoch.Add(30 * time.Minute)} }, time.Hour, rules.Later},
		{"an order in the future, from before the clock was set back", func(c *rules.Case) { soon(c); c.Orders = []time.Time{epoch.Add(1000 * time.Hour)} }, time.Hour, rules.Later},
		{"not an issuer", func(c *rules.Case) { soon(c); c.Self = node(9) }, time.Hour, rules.Leave},
	} {
		c := aCase(1)
		k.edit(&c)
		if v := rules.JudgeGlass(c, epoch.Add(k.now)); v.Answer != k.want {
			t.Errorf("%s: %+v, want %s", k.name, v, k.want)
		}
	}
}

func TestAPairGoesByItsList(t *testing.T) {
	for _, self := range []int{1, 2} {
		c := aCase(1, 2)
		c.Voters, c.Self = 1, node(self)
		left, ordered := when(t, c)
		want := map[int]time.Duration{1: life / 3 * 9 / 10, 2: life / 3 * 9 / 10 / 4}[self]
		if !ordered || left != want {
			t.Errorf("rank %d of a pair orders with %v left, want %v", self-1, left, want)
		}
	}
}

// TestNoNameExpiresAndNoBudgetBreaks draws fleets, lives and who sees whom: every node that can order does before the end, unless the budget says no.
func TestNoNameExpiresAndNoBudgetBreaks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 9).Draw(t, "issuers")
		var issuers []int
		for i := range n {
			issuers = append(issuers, i+1)
		}
		c := aCase(issuers...)
		long := time.Duration(rapid.Int64Range(int64(6*24*time.Hour), int64(400*24*time.Hour)).Draw(t, "life"))
		c.NotAfter, c.Due = epoch.Add(long), long/time.Duration(rapid.IntRange(2, 3).Draw(t, "due"))
		c.Voters = rapid.SampledFrom([]int{1, 3, 5}).Draw(t, "voters")
		c.Self = node(rapid.IntRange(1, n).Draw(t, "self"))
		for _, id := range c.Issuers {
			if rapid.Bool().Draw(t, "seen") && id != c.Self {
				c.Reachable = append(c.Reachable, id)
			}
		}
		now, orders := epoch, 0
		for now.Before(c.NotAfter) {
			v := rules.JudgeGlass(c, now)
			switch v.Answer {
			case rules.Later:
				now = v.At
			case rules.Ask:
				c.Asked = now
			case rules.Order:
				orders++
				c.Orders = append(c.Orders, now)
				recent := 0
				for _, at := range c.Orders {
					if now.Sub(at) < 7*24*time.Hour {
						recent++
					}
				}
				if recent > rules.GlassOrdersPerWeek {
					t.Fatalf("%d orders in a week", recent)
				}
				now = now.Add(time.Minute) // it failed
			default:
				t.Fatalf("%+v", v)
			}
		}
		if orders == 0 {
			t.Fatal("it expired without an order")
		}
	})
}
