package nginx

import (
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// directive is one statement of an nginx configuration, with its block when it has one.
type directive struct {
	name  string
	args  []string
	block []directive
	file  string
	line  int
}

// token is a word or one of the signs ; { }.
type token struct {
	text string
	sign bool
	line int
}

// marker opens each file in the output of nginx -T: "# configuration file /etc/nginx/nginx.conf:".
const marker = "# configuration file "

// parseDump reads the output of nginx -T and returns the main context with every include in its place, and the path of
// the main configuration file. It never fails: what is not an nginx configuration has no directives that mean anything.
func parseDump(dump string) (tree []directive, main string) {
	files := make(map[string][]directive)
	var order []string
	var name string
	var body strings.Builder
	flush := func() {
		if _, twice := files[name]; !twice && name != "" {
			files[name] = parseFile(name, body.String())
			order = append(order, name)
		}
		body.Reset()
	}
	for line := range strings.SplitAfterSeq(dump, "\n") {
		text := strings.TrimRight(line, "\r\n")
		if after, ok := strings.CutPrefix(text, marker); ok && strings.HasSuffix(after, ":") {
			flush()
			name = strings.TrimSuffix(after, ":")
			continue
		}
		body.WriteString(line)
	}
	flush()
	if len(order) == 0 {
		return nil, ""
	}
	main = order[0]
	slices.Sort(order)
	in := includer{files: files, names: order, dir: path.Dir(main), left: maxDirectives, open: make(map[string]bool)}
	return in.include(main), main
}

// maxDirectives bounds what nested includes can multiply a configuration into.
const maxDirectives = 1_000_000

// includer puts included files where they are included: nginx -T prints every file once, whoever includes it.
type includer struct {
	files map[string][]directive
	names []string        // sorted: the order in which nginx reads what a glob matches
	dir   string          // of the main file: what relative paths are relative to
	open  map[string]bool // files that are being included: one that includes itself is not nginx's doing, and ends there
	left  int             // directives that may still be added
}

func (in *includer) include(file string) []directive {
	if in.open[file] {
		return nil
	}
	in.open[file] = true
	defer delete(in.open, file)
	return in.expand(in.files[file])
}

func (in *includer) expand(list []directive) []directive {
	var out []directive
	for _, d := range list {
		if in.left--; in.left < 0 {
			return out
		}
		if d.name == "include" && len(d.args) == 1 {
			for _, file := range in.match(d.args[0]) {
				out = append(out, in.include(file)...)
			}
			continue
		}
		if d.block != nil {
			d.block = in.expand(d.block)
		}
		out = append(out, d)
	}
	return out
}

func (in *includer) match(pattern string) []string {
	if !path.IsAbs(pattern) {
		pattern = path.Join(in.dir, pattern)
	}
	if _, literal := in.files[pattern]; literal {
		return []string{pattern}
	}
	var found []string
	for _, name := range in.names {
		if ok, err := filepath.Match(pattern, name); err == nil && ok {
			found = append(found, name)
		}
	}
	return found
}

// parseFile reads one configuration file. Blocks that the file does not close end with it.
func parseFile(file, text string) []directive {
	s := scanner{text: text, line: 1}
	return s.directives(file, 0)
}

// nesting bounds how deep blocks may nest; nginx has five contexts.
const nesting = 64

func (s *scanner) directives(file string, depth int) []directive {
	var list []directive
	var d directive
	for {
		t, ok := s.next()
		switch {
		case !ok:
			return list
		case !t.sign && d.name == "":
			d = directive{name: t.text, file: file, line: t.line}
		case !t.sign:
			d.args = append(d.args, t.text)
		case t.text == "}":
			if depth > 0 {
				return list
			}
			d = directive{}
		case d.name == "" && t.text == ";":
		default:
			if t.text == "{" {
				d.block = s.block(file, d.name, depth)
			}
			if d.name != "" {
				list = append(list, d)
			}
			d = directive{}
		}
	}
}

// block reads what stands between { and }; it is never nil.
func (s *scanner) block(file, name string, depth int) []directive {
	if depth >= nesting || strings.HasSuffix(name, "_by_lua_block") {
		s.skipLua()
		return []directive{}
	}
	if inner := s.directives(file, depth+1); inner != nil {
		return inner
	}
	return []directive{}
}

// scanner cuts a configuration file into tokens by the rules of nginx's ngx_conf_read_token.
type scanner struct {
	text string
	at   int
	line int
}

func (s *scanner) next() (token, bool) {
	for s.at < len(s.text) {
		switch c := s.text[s.at]; c {
		case ' ', '\t', '\r':
			s.at++
		case '\n':
			s.at++
			s.line++
		case '#':
			if end := strings.IndexByte(s.text[s.at:], '\n'); end >= 0 {
				s.at += end
			} else {
				s.at = len(s.text)
			}
		case ';', '{', '}':
			s.at++
			return token{text: string(c), sign: true, line: s.line}, true
		case '"', '\'':
			return s.quoted(c), true
		default:
			return s.word(), true
		}
	}
	return token{}, false
}

// quoted reads a token that begins with a quote and ends with the same one.
func (s *scanner) quoted(quote byte) token {
	t := token{line: s.line}
	s.at++
	start := s.at
	for s.at < len(s.text) && s.text[s.at] != quote {
		s.step()
	}
	t.text = unescape(s.text[start:s.at])
	if s.at < len(s.text) {
		s.at++
	}
	return t
}

// word reads an unquoted token: quotes in its middle are letters, and the brace of ${name} opens no block.
func (s *scanner) word() token {
	t := token{line: s.line}
	start := s.at
	for s.at < len(s.text) {
		switch c := s.text[s.at]; {
		case c == '$' && strings.HasPrefix(s.text[s.at:], "${"):
			s.at += 2
			for s.at < len(s.text) && !strings.ContainsRune("} \t\r\n;", rune(s.text[s.at])) {
				s.at++
			}
			if s.at < len(s.text) && s.text[s.at] == '}' {
				s.at++
			}
		case c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == ';' || c == '{':
			t.text = unescape(s.text[start:s.at])
			return t
		default:
			s.step()
		}
	}
	t.text = unescape(s.text[start:s.at])
	return t
}

// step passes one character, or a backslash with the one that it escapes.
func (s *scanner) step() {
	width := 1
	if s.text[s.at] == '\\' && s.at+1 < len(s.text) {
		width = 2
	}
	s.line += strings.Count(s.text[s.at:s.at+width], "\n")
	s.at += width
}

// unescape does what nginx does when it copies a token: a backslash vanishes before a quote or itself, makes a control
// character of t, r and n, and stays before anything else.
func unescape(text string) string {
	if !strings.Contains(text, `\`) {
		return text
	}
	return strings.NewReplacer(`\"`, `"`, `\'`, `'`, `\\`, `\`, `\t`, "\t", `\r`, "\r", `\n`, "\n").Replace(text)
}

// skipLua passes the body of an OpenResty *_by_lua_block, whose braces balance outside strings and comments.
func (s *scanner) skipLua() {
	for depth := 1; s.at < len(s.text); {
		switch c := s.text[s.at]; {
		case c == '"' || c == '\'':
			s.quoted(c)
			continue
		case strings.HasPrefix(s.text[s.at:], "--"):
			for s.at < len(s.text) && s.text[s.at] != '\n' {
				s.at++
			}
			continue
		case c == '{':
			depth++
		case c == '}':
			if depth--; depth == 0 {
				s.at++
				return
			}
		case c == '\n':
			s.line++
		}
		s.at++
	}
}
