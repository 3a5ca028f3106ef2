package acmeclient

import (
	"context"
	"crypto/x509"
	"time"

	"certswarm/internal/fleet"
)

// Fleet is what one issuance needs from the other nodes. All methods may be called from several goroutines, for
// different certificates at once. An error of a method never means "nothing happened": the caller asks again, so every
// method must be safe to repeat.
type Fleet interface {
	// Load returns the newest content of path that is known here. An error that is fs.ErrNotExist says that nobody
	// ever saved it. Paths are slash-separated, relative, and lie in the issuers' private replicated directory.
	Load(path string) ([]byte, error)

	// Save replaces path as a whole and returns when a majority of the issuers holds it durably. The content is
	// secret (it has private keys). After an error it may hold or not; a repeat settles it.
	Save(ctx context.Context, path string, content []byte) error

	// Present publishes the token files to every front-end, replacing what was presented for the same token.
	Present(ctx context.Context, tokens []Token) error

	// Withdraw removes the token files; one that is not there is not an error.
	Withdraw(ctx context.Context, tokens []Token) error

	// AwaitServed is the barrier. It returns nil only when every live front-end has fetched each token through its own
	// nginx, with the token's Host, and got its key authorization. While a reachable front-end does not serve it
	// blocks and keeps asking, until ctx ends. Front-ends that stayed unreachable are returned by name.
	AwaitServed(ctx context.Context, tokens []Token) (leftBehind []string, err error)

	// Held returns the certificate in force for the declared certificate called name, or nil if there is none.
	Held(name string) (*Held, error)

	// Install publishes key and chain as one batch and makes them the ones in force. A bundle whose leaf is already in
	// force is not written again: its generation is returned.
	Install(ctx context.Context, bundle Bundle) (generation int, err error)

	// AwaitVerified waits, for a time that it bounds itself, until the front-ends prove that they serve leaf, and
	// returns each node's state in the words of the status page.
	AwaitVerified(ctx context.Context, name string, generation int, leaf *x509.Certificate) (states map[string]string, err error)
}

// Authority is the right to act, with an end.
type Authority interface {
	// Context ends when the right does.
	Context() context.Context

	// Check is asked immediately before each call to the CA that cannot be taken back (newAccount, newOrder, accept,
	// finalize, revoke). An error means: not now.
	Check() error

	// Begin is asked before an attempt begins that is not under way yet. It says no earlier than Check does.
	Begin() error

	// Epoch is the tenure under which everything is written.
	Epoch() fleet.Epoch
}

// Token is the file that answers one http-01 challenge (RFC 8555 8.3).
type Token struct {
	Token            string    `json:"token"`             // file name below /.well-known/acme-challenge/
	Host             string    `json:"host"`              // the name under validation, as the CA sends it
	KeyAuthorization string    `json:"key_authorization"` // content
	Expires          time.Time `json:"expires"`           // of no use to anybody afterwards
}

// Held is a certificate in force.
type Held struct {
	Leaf        *x509.Certificate
	Chain       []*x509.Certificate // what follows the leaf, in its order
	Generation  int                 // number of the bundle under archive/NAME/
	Placeholder bool                // self-signed by this node, so that nginx could start
	Revoked     bool                // by this fleet; set by the Client, not by a Fleet

	// Newer is the leaf of the latest bundle, where an operator put an earlier one back in force: Leaf. nil: nobody did.
	Newer *x509.Certificate
}

// Bundle is a certificate to install: PEM, ready to be written.
type Bundle struct {
	Name  string // of the declared certificate
	Key   []byte // PKCS #8
	Chain []byte // leaf first, without the root
	Leaf  *x509.Certificate
	Epoch fleet.Epoch
}
