// Package prometheus reads what Prometheus would be told as strictly as it is specified, and more: Prometheus drops the whole answer for one
// line that it cannot parse. Only tests import it. It knows no metric.
package prometheus

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var (
	metricName = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`)
	labelName  = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)
	escaped    = regexp.MustCompile(`^(?:[^\\\n]|\\\\|\\n)+$`)
)

// Sample is one value.
type Sample struct {
	Labels map[string]string
	Value  float64
}

// Families are the samples by their family's name.
type Families map[string][]Sample

// Value returns the value with exactly these labels, which alternate names and values, and whether there is one.
func (f Families) Value(name string, labels ...string) (float64, bool) {
	for _, s := range f[name] {
		same := len(s.Labels) == len(labels)/2
		for i := 0; i < len(labels); i += 2 {
			same = same && s.Labels[labels[i]] == labels[i+1]
		}
		if same {
			return s.Value, true
		}
	}
	return 0, false
}

// Parse reads the text format, version 0.0.4. Every family must begin with its HELP and its TYPE, be a gauge or a counter, and stand in one
// place; a counter's name ends in _total. No timestamps, no other comments, no empty lines.
func Parse(text string) (Families, error) {
	if !strings.HasSuffix(text, "\n") {
		return nil, fmt.Errorf("the last line has no end")
	}
	p := parser{families: Families{}, seen: map[string]bool{}}
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if err := p.line(line); err != nil {
			return nil, fmt.Errorf("line %d: %q: %w", i+1, line, err)
		}
	}
	if p.helped != "" {
		return nil, fmt.Errorf("%s ends after its HELP", p.helped)
	}
	return p.families, nil
}

type parser struct {
	families Families
	seen     map[string]bool // samples, as name and sorted labels
	helped   string          // the family whose TYPE must come next; "" if none
	current  string          // the family whose samples may come
	kind     string          // of current
}

func (p *parser) line(line string) error {
	if rest, ok := strings.CutPrefix(line, "# HELP "); ok {
		name, help, _ := strings.Cut(rest, " ")
		_, again := p.families[name]
		switch {
		case p.helped != "":
			return fmt.Errorf("%s has no TYPE", p.helped)
		case !metricName.MatchString(name):
			return fmt.Errorf("no name of a metric: %q", name)
		case again:
			return fmt.Errorf("a second time")
		case !escaped.MatchString(help):
			return fmt.Errorf("no text, or one that is not escaped")
		}
		p.helped = name
		return nil
	}
	if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
		name, kind, _ := strings.Cut(rest, " ")
		switch {
		case p.helped == "" || name != p.helped:
			return fmt.Errorf("its HELP is not before it")
		case kind != "gauge" && kind != "counter":
			return fmt.Errorf("neither a gauge nor a counter")
		case kind == "counter" != strings.HasSuffix(name, "_total"):
			return fmt.Errorf("what ends in _total is a counter, and nothing else")
		}
		p.families[name] = []Sample{}
		p.helped, p.current, p.kind = "", name, kind
		return nil
	}
	if p.helped != "" {
		return fmt.Errorf("%s has no TYPE", p.helped)
	}
	return p.sample(line)
}

func (p *parser) sample(line string) error {
	end := strings.IndexAny(line, "{ ")
	if end < 0 || line[:end] != p.current {
		return fmt.Errorf("no sample of the family that was begun, %q", p.current)
	}
	s := Sample{Labels: map[string]string{}}
	rest := line[end:]
	if rest[0] == '{' {
		var err error
		if rest, err = s.labels(rest[1:]); err != nil {
			return err
		}
	}
	value, ok := strings.CutPrefix(rest, " ")
	if !ok {
		return fmt.Errorf("no blank before the value")
	}
	var err error
	if s.Value, err = strconv.ParseFloat(value, 64); err != nil || strings.ContainsAny(value, "xX_") {
		return fmt.Errorf("no value: %q", value)
	}
	if p.kind == "counter" && (s.Value < 0 || math.IsNaN(s.Value)) {
		return fmt.Errorf("a counter of %v", s.Value)
	}
	var key []string
	for name, text := range s.Labels {
		key = append(key, fmt.Sprintf("%s=%q", name, text))
	}
	slices.Sort(key)
	unique := p.current + strings.Join(key, ",")
	if p.seen[unique] {
		return fmt.Errorf("a second time")
	}
	p.seen[unique] = true
	p.families[p.current] = append(p.families[p.current], s)
	return nil
}

// labels reads NAME="VALUE",...} and returns what comes behind it.
func (s *Sample) labels(rest string) (string, error) {
	for {
		name, behind, ok := strings.Cut(rest, `="`)
		switch {
		case !ok || !labelName.MatchString(name):
			return "", fmt.Errorf("no label at %q", rest)
		case strings.HasPrefix(name, "__"):
			return "", fmt.Errorf("the label %s is reserved", name)
		}
		if _, again := s.Labels[name]; again {
			return "", fmt.Errorf("two labels %s", name)
		}
		var value strings.Builder
		i := 0
		for ; i < len(behind) && behind[i] != '"'; i++ {
			if behind[i] != '\\' {
				value.WriteByte(behind[i])
				continue
			}
			i++
			plain, ok := map[string]byte{`\`: '\\', `"`: '"', "n": '\n'}[behind[i:min(i+1, len(behind))]]
			if !ok {
				return "", fmt.Errorf("an escape that there is not, in the label %s", name)
			}
			value.WriteByte(plain)
		}
		if i+1 >= len(behind) {
			return "", fmt.Errorf("the label %s has no end", name)
		}
		s.Labels[name] = value.String()
		rest = behind[i+2:]
		switch behind[i+1] {
		case '}':
			return rest, nil
		case ',':
		default:
			return "", fmt.Errorf("neither a comma nor a brace at %q", behind[i+1:])
		}
	}
}
