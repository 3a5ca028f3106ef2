package durable

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"
)

func openIntent(t testing.TB, r *Root) *Intent {
	t.Helper()
	i, err := OpenIntent(r, "applying")
	must(t, err)
	return i
}

func TestAnIntentIsReadByWhoeverComesNext(t *testing.T) {
	r := openRoot(t, t.TempDir())
	for _, payload := range []string{"", "first", "a much longer one than the first", "short", "", "x"} {
		for _, sync := range []bool{false, true} {
			i := openIntent(t, r)
			must(t, i.Write([]byte(payload), sync))
			must(t, i.Close())
			i = openIntent(t, r)
			got, err := i.Read()
			if err != nil || string(got) != payload || payload == "" && got != nil {
				t.Errorf("%q reads as %q, %v", payload, got, err)
			}
			must(t, i.Close())
		}
	}
	if st, err := r.Lstat("applying"); err != nil || st.Perm != 0o600 {
		t.Errorf("%+v, %v", st, err)
	}
}

// A Write that was cut off anywhere leaves the old record, the new one, or none: never a mixture.
func TestATornIntentIsNone(t *testing.T) {
	r := openRoot(t, t.TempDir())
	path := filepath.Join(r.Dir(), "applying")
	record := func(t testing.TB, payload []byte) []byte {
		must(t, r.Remove("applying"))
		i := openIntent(t, r)
		defer i.Close()
		must(t, i.Write(payload, false))
		data, err := os.ReadFile(path)
		must(t, err)
		return data
	}
	rapid.Check(t, func(rt *rapid.T) {
		payload := rapid.SliceOfN(rapid.Byte(), 0, 200)
		before, after := payload.Draw(rt, "before"), payload.Draw(rt, "after")
		oldBytes, newBytes := record(t, before), record(t, after)
		cut := rapid.IntRange(0, len(newBytes)).Draw(rt, "cut")
		torn := append([]byte(nil), newBytes[:cut]...)
		if len(oldBytes) > cut {
			torn = append(torn, oldBytes[cut:]...)
		}
		must(t, os.WriteFile(path, torn, 0o600))
		i := openIntent(t, r)
		defer i.Close()
		got, err := i.Read()
		if err != nil || got != nil && !bytes.Equal(got, before) && !bytes.Equal(got, after) {
			rt.Fatalf("cut at %d of %d: %q, %v", cut, len(newBytes), got, err)
		}
		if cut == len(newBytes) && !bytes.Equal(got, after) {
			rt.Fatalf("a whole record reads as %q", got)
		}
	})
}

func TestADamagedIntentIsNone(t *testing.T) {
	r := openRoot(t, t.TempDir())
	i := openIntent(t, r)
	defer i.Close()
	must(t, i.Write([]byte("payload"), true))
	path := filepath.Join(r.Dir(), "applying")
	good, err := os.ReadFile(path)
	must(t, err)
	for at := range good {
		bad := bytes.Clone(good)
		bad[at] ^= 0x40
		must(t, os.WriteFile(path, bad, 0o600))
		if got, err := i.Read(); got != nil || err != nil {
			t.Errorf("byte %d damaged: %q, %v", at, got, err)
		}
	}
	for size := range good {
		must(t, os.WriteFile(path, good[:size], 0o600))
		if got, err := i.Read(); got != nil || err != nil {
			t.Errorf("cut to %d bytes: %q, %v", size, got, err)
		}
	}
}

func TestAnIntentIsSmall(t *testing.T) {
	i := openIntent(t, openRoot(t, t.TempDir()))
	defer i.Close()
	if err := i.Write(make([]byte, intentLimit+1), false); err == nil {
		t.Error("an intent past the limit was written")
	}
	if got, err := i.Read(); got != nil || err != nil {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func BenchmarkIntent(b *testing.B) {
	i := openIntent(b, openRoot(b, b.TempDir()))
	defer i.Close()
	for b.Loop() {
		must(b, i.Write(make([]byte, 500), true))
	}
}
