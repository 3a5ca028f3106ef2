package acmeclient

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	day  = 24 * time.Hour
	week = 7 * day
)

// used counts what the journal holds against the budget of one set of names.
func (j *journal) used(set string, now time.Time) Usage {
	return Usage{
		OrdersToday:  len(within(j.Orders, set, now, day)),
		OrdersWeek:   len(within(j.Orders, set, now, week)),
		FailuresHour: len(within(j.Invalid, set, now, time.Hour)),
	}
}

// within returns the times of set's marks that are younger than span, oldest first.
func within(marks []mark, set string, now time.Time, span time.Duration) []time.Time {
	var times []time.Time
	for _, m := range marks {
		if m.Set == set && now.Sub(m.At) < span {
			times = append(times, m.At)
		}
	}
	slices.SortFunc(times, time.Time.Compare)
	return times
}

// refuses says why nothing more may be asked of the CA for set now, and when it may again; nil if it may. force leaves
// only the failed validations counting.
func (b Budget) refuses(j *journal, set string, force bool, now time.Time) *Refusal {
	limits := []struct {
		marks []mark
		span  time.Duration
		limit int
		order bool
		text  string
	}{
		{j.Invalid, time.Hour, b.FailuresPerHour, false, "%d of %d failed validations per hour are used up"},
		{j.Orders, day, b.OrdersPerDay, true, "%d of %d orders per day are used up"},
		{j.Orders, week, b.OrdersPerWeek, true, "%d of %d orders per week are used up"},
	}
	var worst *Refusal
	for _, l := range limits {
		if l.order && force {
			continue
		}
		times := within(l.marks, set, now, l.span)
		if len(times) < l.limit {
			continue
		}
		free := now.Add(l.span)
		if l.limit > 0 {
			free = times[len(times)-l.limit].Add(l.span) // when so many are forgotten that one more fits
		}
		if worst == nil || free.After(worst.Until) {
			worst = &Refusal{Code: CodeBudget, Until: free, Text: fmt.Sprintf(l.text, len(times), l.limit)}
		}
	}
	return worst
}

// backoff returns the wait after the given number of failures in a row (>= 1): the schedule's, +-50 %. random is in [0, 1).
func backoff(schedule []time.Duration, failures int, random float64) time.Duration {
	wait := schedule[min(failures, len(schedule))-1]
	return wait/2 + time.Duration(random*float64(wait))
}

// urgent shortens a wait that takes more than a tenth of what is left of the certificate in force, down to a minute: no
// certificate expires between two attempts.
func urgent(wait time.Duration, held *Held, now time.Time) time.Duration {
	if held == nil || held.Placeholder {
		return wait
	}
	return min(wait, max(held.Leaf.NotAfter.Sub(now)/10, time.Minute))
}

// jitter is the source of randomness for backoff.
func jitter() float64 { return rand.Float64() }
