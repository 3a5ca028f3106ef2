package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"certswarm/internal/control"
)

// look is how a page is dressed.
type look struct{ colour bool }

// paint is an SGR sequence (ECMA-48 8.3.117); "" leaves a text as it is.
type paint string

const (
	plain  paint = ""
	bold   paint = "\x1b[1m"
	red    paint = "\x1b[31m"
	green  paint = "\x1b[32m"
	yellow paint = "\x1b[33m"
	unset        = "\x1b[0m"
)

// cell is a text in a table, as it may be shown: see printable.
type cell struct {
	text string
	paint
}

// text makes a cell of something that another node, the CA or the disk may have had a hand in.
func text(s string) cell { return cell{text: printable(s)} }

func painted(s string, p paint) cell { return cell{text: printable(s), paint: p} }

// page collects the lines of a rendering.
type page struct {
	look
	lines strings.Builder
}

func (p *page) line(format string, args ...any) {
	fmt.Fprintf(&p.lines, format, args...)
	p.lines.WriteByte('\n')
}

func (p *page) dress(c cell) string {
	if !p.colour || c.paint == plain || c.text == "" {
		return c.text
	}
	return string(c.paint) + c.text + unset
}

// heading opens a section.
func (p *page) heading(s string) {
	p.line("")
	p.line("%s", p.dress(painted(s, bold)))
}

// table writes rows with their columns aligned, two spaces apart, each line after indent.
func (p *page) table(indent string, rows ...[]cell) {
	var widths []int
	for _, row := range rows {
		for i, c := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, c := range row {
			line.WriteString(p.dress(c))
			line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text)+2))
		}
		p.line("%s", strings.TrimRight(indent+line.String(), " "))
	}
}

// printable returns s with everything that a terminal could take for a command, or that would break a line, spelled
// out: file names and error texts come from elsewhere.
func printable(s string) string {
	var out strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&out, `\x%02x`, s[0])
		case unicode.IsPrint(r):
			out.WriteRune(r)
		default:
			out.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
		s = s[size:]
	}
	return out.String()
}

// span says how long d is, in the one unit that matters: "90 s", "45 min", "30 h", "59 days". Negative spans are
// "0 s": clocks differ.
func span(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", max(0, d)/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", d/time.Hour)
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}

// ago says how long before now t was; never is what zero means.
func ago(t control.Time, now time.Time, never string) string {
	if t.IsZero() {
		return never
	}
	return span(now.Sub(t.Time)) + " ago"
}

// in says how far ahead of now t lies; never is what zero means.
func in(t control.Time, now time.Time, never string) string {
	switch {
	case t.IsZero():
		return never
	case t.Before(now):
		return "now"
	}
	return "in " + span(t.Sub(now))
}

// count says n things: "1 file", "2 files".
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
