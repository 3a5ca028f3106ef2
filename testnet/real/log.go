package real

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"
)

// Event is one line of an agent's log.
type Event struct {
	Time       time.Time
	Node       string
	Level      string
	Text       string
	Attributes map[string]any // as JSON has them: numbers are float64, durations nanoseconds
}

// Attribute returns one attribute as text, "" if it is not there.
func (e Event) Attribute(name string) string {
	value, ok := e.Attributes[name]
	if !ok {
		return ""
	}
	return fmt.Sprint(value)
}

// Duration returns an attribute that is a span of time.
func (e Event) Duration(name string) time.Duration {
	nanoseconds, _ := e.Attributes[name].(float64)
	return time.Duration(nanoseconds)
}

// String returns the line as a person would want it.
func (e Event) String() string {
	text := fmt.Sprintf("%s %s %s %s", e.Time.Format("15:04:05.000"), e.Node, e.Level, e.Text)
	for _, name := range slices.Sorted(maps.Keys(e.Attributes)) {
		text += fmt.Sprintf(" %s=%v", name, e.Attributes[name])
	}
	return text
}

// Log is what an agent has said, through all its restarts. It is safe for concurrent use.
type Log struct {
	node string
	file io.Writer // receives every byte as well

	mu      sync.Mutex
	rest    []byte        // guarded by mu: the beginning of a line
	events  []Event       // guarded by mu
	changed chan struct{} // guarded by mu: closed and replaced with each event
}

func newLog(node string, file io.Writer) *Log {
	return &Log{node: node, file: file, changed: make(chan struct{})}
}

// Write implements io.Writer for an agent's standard error.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, p...)
	for {
		line, rest, found := bytes.Cut(l.rest, []byte("\n"))
		if !found {
			break
		}
		l.events = append(l.events, parseEvent(l.node, line))
		l.rest = rest
		close(l.changed)
		l.changed = make(chan struct{})
	}
	return l.file.Write(p)
}

// parseEvent reads a line of slog's JSON. What is no JSON (a panic, say) is an event of its own words.
func parseEvent(node string, line []byte) Event {
	e := Event{Node: node}
	var fields map[string]any
	if json.Unmarshal(line, &fields) != nil {
		e.Time, e.Text = time.Now(), string(line)
		return e
	}
	at, _ := fields["time"].(string)
	e.Time, _ = time.Parse(time.RFC3339Nano, at)
	e.Level, _ = fields["level"].(string)
	e.Text, _ = fields["msg"].(string)
	for _, name := range []string{"time", "level", "msg"} {
		delete(fields, name)
	}
	e.Attributes = fields
	return e
}

// Events returns all that was said so far.
func (l *Log) Events() []Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.events)
}

// Await returns the first event that matches, of those after the first skip ones.
func (l *Log) Await(ctx context.Context, skip int, match func(Event) bool) (Event, error) {
	for {
		l.mu.Lock()
		events, changed := l.events, l.changed
		l.mu.Unlock()
		for ; skip < len(events); skip++ {
			if match(events[skip]) {
				return events[skip], nil
			}
		}
		select {
		case <-ctx.Done():
			return Event{}, fmt.Errorf("%s did not say what was waited for: %w", l.node, context.Cause(ctx))
		case <-changed:
		}
	}
}

// Said returns a match for Await: events of that text.
func Said(text string) func(Event) bool {
	return func(e Event) bool { return e.Text == text }
}
