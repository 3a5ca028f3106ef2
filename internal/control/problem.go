package control

// Problem is something that a person should know, with what to do about it.
type Problem struct {
	Code     Code     `json:"code"`
	Severity Severity `json:"severity"`
	Since    Time     `json:"since"`
	Node     string   `json:"node"` // the node that must be looked at; for peer-lost the lost one
	Text     string   `json:"text"`
	Because  string   `json:"because"`
	Next     string   `json:"next"` // the command to run
}

// Severity says how bad a problem is.
type Severity string

// The severities: a warning can wait for the morning, an error cannot.
const (
	Warn  Severity = "warn"
	Error Severity = "error"
)

// Code names a kind of problem. The list is closed; docs/OPERATIONS.md gives each its cause, effect and next command.
type Code string

// The problem codes.
const (
	PeerLost            Code = "peer-lost"
	PeerRefused         Code = "peer-refused"
	DirectoryHalted     Code = "directory-halted"
	DirectoryUnreadable Code = "directory-unreadable"
	DiskFull            Code = "disk-full"
	WriteFailed         Code = "write-failed"
	OwnershipFailed     Code = "ownership-failed"
	HeldFile            Code = "held-file"
	NameRefused         Code = "name-refused"
	WatchLimited        Code = "watch-limited"
	ClockSkew           Code = "clock-skew"
	StateDamaged        Code = "state-damaged"
	NoLeaseHolder       Code = "no-lease-holder"
	BreakGlass          Code = "break-glass"
	EditReverted        Code = "edit-reverted"
	EntryRefused        Code = "entry-refused"
	BudgetExhausted     Code = "budget-exhausted"
	ChallengeNotServed  Code = "challenge-not-served"
	CAUnreachable       Code = "ca-unreachable"
	CARefused           Code = "ca-refused"
	RateLimited         Code = "rate-limited"
	CertificateDue      Code = "certificate-due"
	CertificateExpiring Code = "certificate-expiring"
	ChainRefused        Code = "chain-refused"
	NginxTestFailed     Code = "nginx-test-failed"
	NginxReloadFailed   Code = "nginx-reload-failed"
	NginxDown           Code = "nginx-down"
	NotServed           Code = "not-served"
	PlaceholderServed   Code = "placeholder"
	TwoClusters         Code = "two-clusters"
	ConfigRefused       Code = "config-refused"
)

// severities is the closed list of codes. An error means that a certificate or a file is, or without a person soon will
// be, wrong somewhere; a warning that the fleet copes so far.
var severities = map[Code]Severity{
	PeerLost:            Warn,
	PeerRefused:         Warn, // anybody can knock: a stranger must not be able to wake a person
	DirectoryHalted:     Error,
	DirectoryUnreadable: Error,
	DiskFull:            Error,
	WriteFailed:         Error,
	OwnershipFailed:     Warn,
	HeldFile:            Warn,
	NameRefused:         Warn,
	WatchLimited:        Warn,
	ClockSkew:           Error,
	StateDamaged:        Error,
	NoLeaseHolder:       Error,
	BreakGlass:          Warn,
	EditReverted:        Warn,
	EntryRefused:        Warn,
	BudgetExhausted:     Warn,
	ChallengeNotServed:  Error,
	CAUnreachable:       Warn,
	CARefused:           Error,
	RateLimited:         Warn,
	CertificateDue:      Warn,
	CertificateExpiring: Error,
	ChainRefused:        Error,
	NginxTestFailed:     Error,
	NginxReloadFailed:   Error,
	NginxDown:           Error,
	NotServed:           Error,
	PlaceholderServed:   Warn,
	TwoClusters:         Error,
	ConfigRefused:       Error, // the old configuration stays, but the daemon would not survive a restart
}

// Severity is what a problem of this kind is unless its producer knows better. An unlisted code is an error.
func (c Code) Severity() Severity {
	if s, listed := severities[c]; listed {
		return s
	}
	return Error
}
