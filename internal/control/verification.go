package control

// Verification is the outcome of handshaking with every listener of every node now.
type Verification struct {
	Results List[Result] `json:"results"`
}

// Result is one handshake.
type Result struct {
	Node     string      `json:"node"`
	Name     string      `json:"name"`     // of the certificate
	Listener string      `json:"listener"` // "" for a node that could not be asked at all
	KeyType  string      `json:"key_type"`
	State    ServedState `json:"state"`
	Serial   string      `json:"serial"` // of what was shown; "" when nothing was
	Error    string      `json:"error"`  // why nothing was shown
}

// The verdicts of a Verification, which are the exit statuses of `certswarm verify`.
const (
	AllCurrent    = 0
	SomeMismatch  = 1
	SomeUnreached = 3
)

// Verdict is SomeMismatch if any listener shows another certificate, else SomeUnreached if any could not be asked, else
// AllCurrent.
func (v Verification) Verdict() int {
	verdict := AllCurrent
	for _, r := range v.Results {
		switch r.State {
		case Current:
		case Stale:
			return SomeMismatch
		default:
			verdict = SomeUnreached
		}
	}
	return verdict
}
