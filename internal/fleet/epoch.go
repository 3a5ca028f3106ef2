package fleet

import (
	"cmp"
	"fmt"
)

// Epoch is one tenure of the lease. Epochs only grow: what is stamped with a later one wins everywhere, so a holder
// that was replaced without noticing cannot undo its successor's work. The zero Epoch is "no lease was needed".
type Epoch struct {
	Generation uint64 // raised by every founding and forced recovery of the lease
	Nonce      uint64 // random with each generation: two recoveries of one generation are never taken for each other
	Term       uint64
	Index      uint64
}

// Compare returns -1, 0 or +1 as e is earlier than, the same as, or later than other.
func (e Epoch) Compare(other Epoch) int {
	return cmp.Or(
		cmp.Compare(e.Generation, other.Generation),
		cmp.Compare(e.Nonce, other.Nonce),
		cmp.Compare(e.Term, other.Term),
		cmp.Compare(e.Index, other.Index))
}

// IsZero reports whether e belongs to no lease.
func (e Epoch) IsZero() bool { return e == Epoch{} }

// String returns "" for the zero Epoch, else the text that ParseEpoch reads: generation-nonce.term.index.
func (e Epoch) String() string {
	if e.IsZero() {
		return ""
	}
	return fmt.Sprintf("%d-%016x.%d.%d", e.Generation, e.Nonce, e.Term, e.Index)
}

// ParseEpoch reads what Epoch.String wrote.
func ParseEpoch(text string) (Epoch, error) {
	var e Epoch
	if text == "" {
		return e, nil
	}
	if _, err := fmt.Sscanf(text, "%d-%x.%d.%d", &e.Generation, &e.Nonce, &e.Term, &e.Index); err != nil || e.String() != text {
		return Epoch{}, fmt.Errorf("not an epoch: %q", text)
	}
	return e, nil
}

// MarshalText implements encoding.TextMarshaler.
func (e Epoch) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (e *Epoch) UnmarshalText(text []byte) error {
	parsed, err := ParseEpoch(string(text))
	if err == nil {
		*e = parsed
	}
	return err
}
