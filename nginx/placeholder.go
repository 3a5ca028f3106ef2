package nginx

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"certswarm/internal/durable"
)

// placeholderOrganization marks a placeholder, in the certificate itself.
const placeholderOrganization = "certswarm placeholder"

// placeholderLife is longer than anybody should wait for a certificate.
const placeholderLife = 10 * 365 * 24 * time.Hour

// PlaceholderGeneration is the directory of a placeholder below archive/NAME/. It belongs to one node: it must not be
// replicated.
const PlaceholderGeneration = "placeholder"

// IsPlaceholder reports whether a certificate only keeps nginx able to start until a real one is issued.
func IsPlaceholder(c *x509.Certificate) bool {
	return slices.Contains(c.Subject.Organization, placeholderOrganization)
}

// Placeholder is the certificate that stands in for one that is not issued yet: self-signed, or a copy of Like.
type Placeholder struct {
	Name       string // of the certificate
	Names      []string
	RSA        bool   // the kind of its key, as of what it stands in for: a server shows one certificate of each kind, so that two of one kind hide each other
	Like       string // the name of another certificate, which a placeholder of this kind would hide: it is copied instead; "": none
	Generation int    // of archive/NAME/, preferred to a placeholder if nginx can load it; 0: none
	Owner      durable.Owner
	Displace   func(target string) error // puts a link where the real directory live/NAME stands; what was in it is somewhere safe first
}

// Placed is what EnsurePlaceholder found at live/NAME, and did about it.
type Placed struct {
	Made   bool     // live/NAME is a new link, or what it leads to is new
	Broken error    // why nginx could not load what stood there; nil: it could, or nothing stood there
	Kept   string   // where a file that stood there is now, or where a link led; "" of a directory, which Displace knows about
	Others []string // what a broken directory has besides the files that belong there: it may be in use under these names, and is left as it is
	Warn   error    // the files could not be given to their owner, or one that is there not be made anew
}

func (p Placeholder) link() string   { return "live/" + p.Name }
func (p Placeholder) dir() string    { return "archive/" + p.Name + "/" + PlaceholderGeneration }
func (p Placeholder) target() string { return "../" + p.dir() }

// EnsurePlaceholder sees to it that live/NAME leads to a pair that nginx can load, because nginx does not start without the files that it names.
// What it can load is never replaced, but for a directory where p.Generation is here. What it cannot makes way for a link to p.Generation, or to
// p in archive/NAME/placeholder/, unless it is a directory that may be in use under other names. The key is readable by its owner, and by the
// group if p.Owner has one. A crash leaves what the next call finishes.
func EnsurePlaceholder(store *durable.Root, p Placeholder) (Placed, error) {
	placed, err := p.ensure(store)
	if err != nil {
		err = fmt.Errorf("no placeholder for %s: %w", p.Name, err)
	}
	return placed, err
}

func (p Placeholder) ensure(store *durable.Root) (placed Placed, err error) {
	stat, err := store.Lstat(p.link())
	there := err == nil
	if !there && !errors.Is(err, fs.ErrNotExist) {
		return placed, err
	}
	live := filepath.Join(store.Dir(), p.link())
	if there {
		_, placed.Broken = Loads(live)
	}
	led, _ := store.Readlink(p.link()) // "" of what is no link
	target := "../archive/" + p.Name + "/" + strconv.Itoa(p.Generation)
	leaf, _ := Loads(filepath.Join(filepath.Dir(live), target))
	wished := p.Generation > 0 && leaf != nil
	switch good := there && placed.Broken == nil; {
	case good && led == p.target():
		made, warn, err := p.write(store)
		placed.Made, placed.Warn = made, errors.Join(warn, err) // nginx starts with what is there
		return placed, nil
	case good && !(wished && stat.Kind == durable.Directory):
		return placed, nil
	case !good && there && !wished && led != p.target():
		if placed.Others = strangers(live); len(placed.Others) > 0 {
			return placed, nil
		}
	}
	if !wished {
		target = p.target()
		// A crash after this line leaves a directory that nobody refers to, and that the next call uses or replaces.
		if _, placed.Warn, err = p.write(store); err != nil {
			return placed, err
		}
	}
	placed.Made = true
	switch {
	case there && stat.Kind == durable.Directory:
		return placed, p.Displace(target)
	case there && stat.Kind == durable.File:
		// A crash after this line leaves two copies.
		if placed.Kept, err = p.keep(store, stat); err != nil {
			return placed, err
		}
	default:
		placed.Kept = led
	}
	return placed, store.ReplaceSymlink(p.link(), target)
}

// keep copies the file that stands where the link must be, and returns where to: it is no more replicated than the placeholder beside it.
func (p Placeholder) keep(store *durable.Root, stat durable.Stat) (string, error) {
	file, err := store.Open(p.link())
	if err != nil {
		return "", err
	}
	defer file.Close() // nothing was written: no news in its error
	name, token := p.dir()+"/replaced-"+time.Now().UTC().Format("20060102T150405.000Z"), rand.Text()
	v := durable.Version{Kind: durable.File, Perm: stat.Perm, Owner: durable.Owner{UID: stat.UID, GID: stat.GID}}
	if _, err := store.MkDir(p.dir(), 0o755, p.Owner); err != nil {
		return "", err
	}
	if _, err := store.Stage(name, token, v, file); err != nil {
		return "", err
	}
	if err := store.Place(name, token); err != nil {
		return "", errors.Join(err, store.Unstage(name, token))
	}
	return filepath.Join(store.Dir(), name), store.SyncDir(p.dir())
}

// strangers returns what is in a directory besides the files of a certificate.
func strangers(dir string) []string {
	entries, _ := os.ReadDir(dir) // there are none in what is no directory
	var out []string
	for _, e := range entries {
		if own := []string{"fullchain.pem", "privkey.pem", "cert.pem", "chain.pem", "README"}; !slices.Contains(own, e.Name()) && !durable.IsTemp(e.Name()) {
			out = append(out, e.Name())
		}
	}
	return out
}

// write fills the placeholder's directory, unless what should be there is there already.
func (p Placeholder) write(store *durable.Root) (made bool, warn, err error) {
	dir := p.dir()
	warn, err = store.MkDir(dir, 0o755, p.Owner)
	if err != nil {
		return false, warn, err
	}
	certificate, key, err := p.copied(store)
	if err != nil {
		return false, warn, err
	}
	haveChain, chainErr := store.ReadFile(dir+"/chain.pem", certificateLimit) // the last one that is written
	haveKey, keyErr := store.ReadFile(dir+"/privkey.pem", certificateLimit)
	if chainErr == nil && keyErr == nil {
		leaf, err := CheckPair(haveChain, haveKey, p.Names, time.Now())
		fits := err == nil && (keyType(leaf) == "rsa") == p.RSA
		if certificate != nil {
			fits = bytes.Equal(haveChain, certificate) && bytes.Equal(haveKey, key)
		}
		if fits {
			return false, warn, nil
		}
	}
	if certificate == nil {
		if certificate, key, err = p.sign(time.Now()); err != nil {
			return false, warn, err
		}
	}
	keyPerm := uint32(0o600)
	if p.Owner.GID >= 0 {
		keyPerm = 0o640
	}
	for _, file := range []struct {
		name string
		data []byte
		perm uint32
	}{
		{"privkey.pem", key, keyPerm},
		{"cert.pem", certificate, 0o644},
		{"fullchain.pem", certificate, 0o644},
		{"chain.pem", certificate, 0o644}, // not empty: nginx does not load an empty ssl_trusted_certificate
	} {
		path := dir + "/" + file.name
		// Written for its owner alone; who else may read it is added once it belongs to whom it should.
		if err := store.WriteFile(path, file.data, 0o600); err != nil {
			return false, warn, err
		}
		given, err := store.SetMode(path, file.perm, p.Owner)
		if err != nil {
			return false, warn, err
		}
		warn = errors.Join(warn, given)
	}
	return true, warn, nil
}

// copied returns the pair that is in force for p.Like; nil without one, or when it cannot be had any more.
func (p Placeholder) copied(store *durable.Root) (certificate, key []byte, err error) {
	if p.Like == "" {
		return nil, nil, nil
	}
	live := filepath.Join(store.Dir(), "live", p.Like)
	if leaf, err := Loads(live); leaf == nil || err != nil {
		return nil, nil, nil
	}
	if certificate, err = readWhole(live + "/fullchain.pem"); err == nil {
		key, err = readWhole(live + "/privkey.pem")
	}
	return certificate, key, err
}

// sign makes the certificate and its key, both PEM.
func (p Placeholder) sign(now time.Time) (certificate, key []byte, err error) {
	var private crypto.Signer
	if p.RSA {
		private, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		return nil, nil, err
	}
	number, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, err
	}
	template := x509.Certificate{
		SerialNumber:          number.Add(number, big.NewInt(1)), // positive: RFC 5280 4.1.2.2
		Subject:               pkix.Name{Organization: []string{placeholderOrganization}, CommonName: p.Name},
		NotBefore:             now.Add(-24 * time.Hour), // clocks differ
		NotAfter:              now.Add(placeholderLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, n := range p.Names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, private.Public(), private)
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), nil
}
