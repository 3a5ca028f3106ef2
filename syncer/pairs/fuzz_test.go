package pairs

import (
	"bytes"
	"testing"
)

// FuzzRead feeds what people and programs write to the reader of PEM names. The corpus in testdata has whole files of each kind, and cut ones.
func FuzzRead(f *testing.F) {
	f.Fuzz(func(t *testing.T, key bool, content []byte) {
		name := "x.pem"
		if key {
			name = "x.key"
		}
		file := Read(name, content)
		public, half := file.Half()
		if half && public.Fits(public) != (public != PublicKey{}) {
			t.Errorf("%x does not fit itself", public)
		}
		if ended := Read(name, append(bytes.Clone(content), '\n')); file.Broken == "" && ended.Broken != "" {
			t.Errorf("whole, and with one line end more: %s", ended.Broken)
		}
		if file.certified && file.certifies == (PublicKey{}) {
			t.Error("a certificate without a key")
		}
	})
}
