package config

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// FuzzLoad reads two files as one configuration. Whatever they hold, there is a configuration or there are errors,
// each with a place in one of the files; a configuration, written out, is read back as the same. Run it with
// -fuzzminimizetime=5x: shrinking an input that is merely interesting costs a minute each otherwise.
func FuzzLoad(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yaml")
	wrong, wrongErr := filepath.Glob("testdata/wrong/*.yaml")
	if err := errors.Join(err, wrongErr); err != nil {
		f.Fatal(err)
	}
	for _, file := range append(files, wrong...) {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, []byte{})
		f.Add(text[:len(text)/2], text[len(text)/2:])
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		cfg, err := loadTexts(a, b)
		if err != nil {
			var wrong Errors
			if !errors.As(err, &wrong) || len(wrong) == 0 || cfg != nil {
				t.Fatalf("%v is neither a configuration nor Errors: %v", cfg, err)
			}
			for _, e := range wrong {
				if e.File != "a" && e.File != "b" || e.Line < 1 || e.Col < 1 || e.What == "" || e.Instead == "" {
					t.Fatalf("not a whole error: %#v", e)
				}
			}
			return
		}
		text := Effective(cfg)
		again, err := loadTexts(text, nil)
		if err != nil {
			t.Fatalf("does not read back: %v\n%s", err, text)
		}
		if changes := Changes(cfg, again); len(changes) > 0 {
			t.Fatalf("reads back differently: %q\n%s", changes, text)
		}
		EffectiveJSON(cfg)
	})
}

func loadTexts(a, b []byte) (*Config, error) {
	p := newProblems()
	p.files = []string{"a", "b"}
	return build([]source{{"a", a}, {"b", b}}, p, whole)
}

func TestNearest(t *testing.T) {
	words := []string{"state_dir", "ttl", "id", "addresses", "peers"}
	for text, want := range map[string]string{
		"statedir": "state_dir", "state-dir": "state_dir", "STATE_DIR": "state_dir", "tlt": "ttl", "tl": "ttl", "adresses": "addresses",
		"addresess": "addresses", "peer": "peers", "Id": "id", "x": "", "": "", "nothing_like_it": "", "port": "",
	} {
		if got := nearest(text, words); got != want {
			t.Errorf("%q was meant to be %q, not %q", text, got, want)
		}
	}
}
