package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// page is what the demo prints.
type page struct {
	out    io.Writer
	colors bool
}

// newPage prints in colors where a person looks and did not ask for none (no-color.org).
func newPage(out *os.File) *page {
	info, err := out.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0
	return &page{out: out, colors: terminal && os.Getenv("NO_COLOR") == ""}
}

const (
	bold  = "1"
	faint = "2"
	red   = "31"
	green = "32"
	cyan  = "36"
)

func (p *page) paint(color, text string) string {
	if !p.colors || color == "" {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

// line prints a line. Nobody is left to tell when standard output cannot be written.
func (p *page) line(format string, args ...any) {
	_, _ = fmt.Fprintf(p.out, format+"\n", args...)
}

func (p *page) heading(text string) {
	p.line("")
	p.line("%s", p.paint(bold, text))
}

// row prints a label and what it means.
func (p *page) row(label, format string, args ...any) {
	p.line("  %s %s", p.paint(cyan, fmt.Sprintf("%-10s", label)), fmt.Sprintf(format, args...))
}

// timeline prints moments; the first is at zero.
func (p *page) timeline(all []moment) {
	if len(all) == 0 {
		p.line("  nothing: no agent began to request the certificate")
		return
	}
	p.line("  %s", p.paint(faint, fmt.Sprintf("%8s  %-5s %-10s", "ms", "node", "step")))
	for _, m := range all {
		color := ""
		if m.node == theCA {
			color = cyan
		}
		line := fmt.Sprintf("%8.1f  %-5s %-10s %s", float64(m.at.Sub(all[0].at).Microseconds())/1000, m.node, m.step, m.text)
		p.line("  %s", p.paint(color, strings.TrimRight(line, " ")))
	}
}

// quote prints what a program said.
func (p *page) quote(text string) {
	for line := range strings.Lines(text) {
		p.line("  %s", strings.TrimRight(line, "\n"))
	}
}

// claims prints what came true and what did not, and returns how many did not.
func (p *page) claims(all []claim) (failed int) {
	p.heading("What the demo saw for itself")
	for _, c := range all {
		if c.failed == "" {
			p.line("  %s  %s", p.paint(green, "true "), c.text)
			continue
		}
		failed++
		p.line("  %s  %s: %s", p.paint(red, "FALSE"), c.text, c.failed)
	}
	return failed
}

// complaints prints what the agents warned of.
func (p *page) complaints(seen evidence) {
	p.heading("What the agents complained about")
	for _, e := range seen.events {
		if e.Level != "INFO" {
			p.line("  %s", e)
		}
	}
	p.line("  (with -keep the whole logs stay)")
}

// ms is a duration in milliseconds.
func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }
