package syncer

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"certswarm/internal/durable"
	"certswarm/syncer/index"
)

// matcher tells the paths that are not replicated. A glob without a slash matches base names, one with a slash the whole path; `*` and
// `?` stay within a component, `**` crosses directories. What stands below an ignored directory is ignored with it.
type matcher struct{ base, whole []*regexp.Regexp }

func newMatcher(globs []string) (matcher, error) {
	var m matcher
	for _, glob := range globs {
		re, err := regexp.Compile("^" + globExpression(strings.Trim(glob, "/")) + "$")
		if err != nil {
			return matcher{}, fmt.Errorf("ignore: %q is not a glob", glob)
		}
		if strings.Contains(glob, "/") {
			m.whole = append(m.whole, re)
		} else {
			m.base = append(m.base, re)
		}
	}
	return m, nil
}

func globExpression(glob string) string {
	var b strings.Builder
	for glob != "" {
		_, width := utf8.DecodeRuneInString(glob)
		switch {
		case strings.HasPrefix(glob, "**/"):
			b.WriteString("(.*/)?")
			width = 3
		case strings.HasPrefix(glob, "**"):
			b.WriteString(".*")
			width = 2
		case glob[0] == '*':
			b.WriteString("[^/]*")
		case glob[0] == '?':
			b.WriteString("[^/]")
		default:
			b.WriteString(regexp.QuoteMeta(glob[:width]))
		}
		glob = glob[width:]
	}
	return b.String()
}

func (m matcher) match(p index.Path) bool {
	for ; !p.IsZero(); p = p.Parent() {
		if durable.IsTemp(p.Base()) {
			return true
		}
		for _, re := range m.base {
			if re.MatchString(p.Base()) {
				return true
			}
		}
		for _, re := range m.whole {
			if re.MatchString(p.String()) {
				return true
			}
		}
	}
	return false
}
