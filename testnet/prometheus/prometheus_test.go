package prometheus

import "testing"

const head = "# HELP a_total A.\n# TYPE a_total counter\n"

func TestParse(t *testing.T) {
	families, err := Parse(head + "a_total{x=\"1\",y=\"\\\\ \\\" \\n , }\"} 3\na_total{x=\"2\"} 1e9\n# HELP b B, \\\\ too.\n# TYPE b gauge\n# HELP c C.\n# TYPE c gauge\nc -0.5\n")
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := families.Value("a_total", "x", "1", "y", "\\ \" \n , }"); v != 3 || !ok {
		t.Errorf("%v", families)
	}
	if v, ok := families.Value("c"); v != -0.5 || !ok || len(families) != 3 || len(families["b"]) != 0 {
		t.Errorf("%v", families)
	}
	if v, ok := families.Value("a_total", "x", "1"); ok {
		t.Errorf("with other labels: %v", v)
	}
}

// What is wrong is refused.
func TestParseBites(t *testing.T) {
	for name, text := range map[string]string{
		"labels in the family's name":    "# HELP a_total{x=\"1\"} A.\n# TYPE a_total{x=\"1\"} counter\na_total{x=\"1\"} 1\n",
		"labels in the type":             "# HELP a_total A.\n# TYPE a_total{x=\"1\"} counter\na_total{x=\"1\"} 1\n",
		"no end":                         head + "a_total 1",
		"nothing":                        "",
		"an empty line":                  head + "\na_total 1\n",
		"no type":                        "# HELP a A.\na 1\n",
		"no type at the end":             "# HELP a A.\n",
		"no type, another family":        "# HELP a A.\n# HELP b B.\n# TYPE b gauge\n",
		"no help":                        "# TYPE a gauge\na 1\n",
		"an empty help":                  "# HELP a \n# TYPE a gauge\na 1\n",
		"a help that is not escaped":     "# HELP a A\\b\n# TYPE a gauge\na 1\n",
		"no head":                        "a 1\n",
		"a name that is none":            "# HELP 1a A.\n# TYPE 1a gauge\n1a 1\n",
		"a kind that there is not":       "# HELP a A.\n# TYPE a number\na 1\n",
		"a counter called a gauge":       "# HELP a A.\n# TYPE a counter\na 1\n",
		"a gauge called a counter":       "# HELP a_total A.\n# TYPE a_total gauge\na_total 1\n",
		"one type twice":                 head + head,
		"a family in two places":         head + "# HELP b B.\n# TYPE b gauge\na_total 1\n",
		"a comment":                      head + "# so it is\na_total 1\n",
		"one sample twice":               head + "a_total{x=\"1\",y=\"2\"} 1\na_total{y=\"2\",x=\"1\"} 2\n",
		"no value":                       head + "a_total\n",
		"an empty value":                 head + "a_total \n",
		"a value that is no number":      head + "a_total one\n",
		"a value as C writes it":         head + "a_total 0x10\n",
		"two blanks":                     head + "a_total  1\n",
		"a timestamp":                    head + "a_total 1 1700000000\n",
		"no blank":                       head + "a_total{x=\"1\"}1\n",
		"a counter below zero":           head + "a_total -1\n",
		"a counter that is no number":    head + "a_total NaN\n",
		"no labels in braces":            head + "a_total{} 1\n",
		"a label that is none":           head + "a_total{x-y=\"1\"} 1\n",
		"a reserved label":               head + "a_total{__x=\"1\"} 1\n",
		"a label twice":                  head + "a_total{x=\"1\",x=\"2\"} 1\n",
		"a label without quotes":         head + "a_total{x=1} 1\n",
		"a label without an end":         head + "a_total{x=\"1\n",
		"labels without an end":          head + "a_total{x=\"1\" 1\n",
		"labels that end with a comma":   head + "a_total{x=\"1\",} 1\n",
		"an escape that there is not":    head + "a_total{x=\"\\t\"} 1\n",
		"a label that ends in an escape": head + "a_total{x=\"\\\n",
	} {
		if families, err := Parse(text); err == nil {
			t.Errorf("%s: %v", name, families)
		}
	}
}
