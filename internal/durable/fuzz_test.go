package durable

import (
	"bytes"
	"os"
	"testing"
)

// FuzzIntent feeds a damaged disk's bytes to the reader of intents: it finds nothing in them, or what somebody has written whole; and what is written
// over them is read.
func FuzzIntent(f *testing.F) {
	root, err := OpenRoot(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	defer root.Close()
	f.Fuzz(func(t *testing.T, disk, payload []byte) {
		if err := os.WriteFile(root.full("intent"), disk, 0o600); err != nil {
			t.Fatal(err)
		}
		i, err := OpenIntent(root, "intent")
		if err != nil {
			t.Fatal(err)
		}
		defer i.Close()
		found, err := i.Read()
		if err != nil || found != nil && !bytes.Contains(disk, found) {
			t.Errorf("%x is read as %x: %v", disk, found, err)
		}
		if err := i.Write(payload, false); err != nil {
			t.Fatal(err)
		}
		if again, err := i.Read(); err != nil || !bytes.Equal(again, payload) {
			t.Errorf("%x is read as %x: %v", payload, again, err)
		}
	})
}
