package state

import (
	"bytes"
	"testing"

	"certswarm/syncer/wire"
)

// FuzzRecord feeds a damaged state database's records to their reader: what is taken is exactly what was once written.
func FuzzRecord(f *testing.F) {
	f.Fuzz(func(t *testing.T, key, value []byte) {
		if o, err := originOf(key); err == nil && !bytes.Equal(originKey(o), key) {
			t.Errorf("%x is read as %v", key, o)
		}
		e, err := readEntry(key, value)
		if err != nil {
			return
		}
		if again := append(originKey(e.Origin), wire.EncodeEntry(e)...); e.Path.String() != string(key) || !bytes.Equal(again, value) {
			t.Errorf("%q: %x is read as %+v", key, value, e)
		}
	})
}
