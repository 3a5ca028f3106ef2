package wire

import (
	"bytes"
	"testing"

	"certswarm/syncer/index"
)

// FuzzDecode feeds a peer's bytes to the reader of each kind of frame. The corpus in testdata has an honest frame of each.
func FuzzDecode(f *testing.F) {
	f.Fuzz(func(t *testing.T, kind byte, body []byte) {
		checkCanonical(t, kind, body)
		frame, err := Decode(kind, body)
		if o, ok := frame.(Offer); err == nil && ok && len(o.Entries) > 0 {
			if err := scope.Verify(o.Origin.Node, o.Key, o.Entries); err == nil {
				for _, e := range o.Entries {
					if _, err := index.ParsePath(e.Path.String()); err != nil {
						t.Errorf("%q: %v", e.Path, err)
					}
				}
			}
		}
	})
}

// FuzzEntry feeds a damaged disk's bytes to the reader of entries.
func FuzzEntry(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := DecodeEntry(anOrigin, b)
		if err != nil {
			return
		}
		if again := EncodeEntry(e); !bytes.Equal(again, b) {
			t.Errorf("%x\nwas taken for %+v, which is\n%x", b, e, again)
		}
	})
}
