package index

import (
	"path"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParsePathTakesCleanRelativePaths(t *testing.T) {
	long := strings.Repeat("x", MaxComponent)
	longest := strings.Repeat(strings.Repeat("x", 127)+"/", 8)[:MaxPath-1] + "y"
	for _, text := range []string{
		"a", "a/b/c", ".hidden", "..a", "a..", "a/..b/c..", "...", " ", "a b/\n", "-rf", "*", "caf\u00e9", "cafe\u0301", "\xff\xfe/\x80",
		"live/www.example.com/privkey.pem", long, "a/" + long, longest, strings.Repeat("d/", MaxDepth-1) + "d",
	} {
		p, err := ParsePath(text)
		if err != nil || p.String() != text {
			t.Errorf("%q: %q, %v", text, p, err)
		}
	}
	if MustPath("caf\u00e9") == MustPath("cafe\u0301") {
		t.Error("two names that a file system tells apart are one path")
	}
}

func TestParsePathRefuses(t *testing.T) {
	longer := strings.Repeat(strings.Repeat("x", 127)+"/", 8) + "y"
	for name, text := range map[string]string{
		"nothing":                "",
		"the root":               ".",
		"the parent":             "..",
		"above the root":         "../x",
		"absolute":               "/x",
		"only a slash":           "/",
		"above by a detour":      "a/../../x",
		"a detour inside":        "a/../b",
		"a dot":                  "a/./b",
		"a dot first":            "./a",
		"a trailing slash":       "a/",
		"an empty name":          "a//b",
		"ends above":             "a/..",
		"NUL":                    "a\x00b",
		"a name of 256 bytes":    strings.Repeat("x", MaxComponent+1),
		"an inner name too long": "a/" + strings.Repeat("x", MaxComponent+1) + "/b",
		"a path of 1,025 bytes":  longer,
		"a path of 4,097 bytes":  strings.Repeat("x", 4097),
		"65 directories deep":    strings.Repeat("d/", MaxDepth) + "d",
	} {
		if p, err := ParsePath(text); err == nil || !p.IsZero() {
			t.Errorf("%s: %q was taken", name, text)
		}
	}
}

func TestParsePathTakesExactlyWhatIsClean(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", ".", "..", "", "/", "\x00", "\xff"}), 0, 6).Draw(t, "parts"), "/")
		names := strings.Split(text, "/")
		clean := true
		for _, name := range names {
			clean = clean && name != "" && name != "." && name != ".." && !strings.Contains(name, "\x00")
		}
		p, err := ParsePath(text)
		if (err == nil) != clean {
			t.Fatalf("%q: %v", text, err)
		}
		if err != nil {
			return
		}
		if p.Base() != path.Base(text) || p.depth() != len(names)-1 {
			t.Fatalf("%q: base %q, depth %d", text, p.Base(), p.depth())
		}
		again, err := p.Parent().Join(p.Base())
		if err != nil || again != p {
			t.Fatalf("%q joined again is %q, %v", text, again, err)
		}
	})
}

func TestJoinTakesOneName(t *testing.T) {
	for _, name := range []string{"", ".", "..", "a/b", "/a", "a\x00"} {
		for _, dir := range []Path{{}, MustPath("d")} {
			if p, err := dir.Join(name); err == nil {
				t.Errorf("%q joined to %q is %q", name, dir, p)
			}
		}
	}
}

func TestUnder(t *testing.T) {
	for _, c := range []struct {
		path, dir string
		want      bool
	}{{"a", "a", true}, {"a/b/c", "a", true}, {"a/b", "a/b/c", false}, {"ab", "a", false}, {"a", "b", false}} {
		equal(t, c.path+" under "+c.dir, MustPath(c.path).Under(MustPath(c.dir)), c.want)
	}
	equal(t, "everything under the root", MustPath("a").Under(Path{}), true)
}

func TestLinksThatEscape(t *testing.T) {
	for _, c := range []struct {
		link, target string
		resolved     string // "": leads out
	}{
		{"live", "archive", "archive"},
		{"live/www", "../archive/www/7", "archive/www/7"},
		{"live/www", "./x", "live/x"},
		{"live/www", "x//y/", "live/x/y"},
		{"a/b/c", "../../d", "d"},
		{"a", "b/../c", "c"},
		{"a", "\xff", "\xff"},
		{"a", strings.Repeat("./", MaxPath/2-1) + "b", "b"},

		{"a", "", ""},
		{"a", "/etc/passwd", ""},
		{"a", "../x", ""},
		{"a/b", "../../x", ""},
		{"a", "a/../../x", ""},
		{"a/b", "../c/../../x/../a", ""},
		{"a", "b\x00c", ""},
		{"a", strings.Repeat("./", MaxPath/2) + "b", ""}, // no peer would take it
		{"a", strings.Repeat("x", MaxComponent+1), ""},   // inside, but nothing can stand there
	} {
		p := MustPath(c.link)
		to, inside := p.Resolve(c.target)
		if to.String() != c.resolved || inside != (c.resolved != "") {
			t.Errorf("%s -> %q resolves to %q, %v; not %q", c.link, c.target, to, inside, c.resolved)
		}
		if inside == p.Escapes(c.target) && len(c.target) != MaxComponent+1 {
			t.Errorf("%s -> %q: escapes is %v", c.link, c.target, inside)
		}
	}
	for link, target := range map[string]string{"a": ".", "a/b": ".."} {
		if MustPath(link).Escapes(target) {
			t.Errorf("%s -> %s: the root is not outside of itself", link, target)
		}
		if _, inside := MustPath(link).Resolve(target); inside {
			t.Errorf("%s -> %s: the root has a path", link, target)
		}
	}
}

func TestWhyALinkLeadsNowhere(t *testing.T) {
	for target, want := range map[string]string{
		"":                             "leaves the directory",
		"../../a":                      "leaves the directory",
		"..":                           "the replicated directory itself",
		".":                            "",
		"b":                            "",
		strings.Repeat("d/", MaxDepth): "65 directories deep",
		strings.Repeat("n", 300):       "a name of 300 bytes",
		strings.Repeat("n/../", 300):   "its target has 1500 bytes",
	} {
		_, err := MustPath("a/link").Follow(target)
		if err == nil != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("to %q: %v, not %q", target, err, want)
		}
		if _, inside := MustPath("a/link").Resolve(target); inside != (err == nil) {
			t.Errorf("Resolve says otherwise of %q", target)
		}
	}
}
