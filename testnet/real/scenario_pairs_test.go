package real_test

import (
	"crypto/aes"
	"encoding/pem"
	"strings"
	"testing"

	"certswarm/internal/control"
	"certswarm/testnet/real"
)

// A key and its certificate go out when they are whole and belong together. Until then the other nodes keep what they have,
// and status says which file is held.
func TestPairs(t *testing.T) {
	t.Parallel()
	w := start(t, real.Config{Addresses: addresses(2)})
	w.await(real.Synced)
	w.ballast(w.Nodes[0])
	scene(t, w, "a truncated certificate", truncatedCertificate)
	scene(t, w, "a truncated key over a whole one", truncatedKey)
	scene(t, w, "the certificate first, its key later", certificateFirst)
	scene(t, w, "the key first, its certificate later", keyFirst)
	scene(t, w, "pairs side by side", pairsSideBySide)
	scene(t, w, "whole, if unusual", wholeIfUnusual)
	scene(t, w, "in the end all is well", allIsWell)
}

// A program renames half a certificate into place. It never leaves the node; completed, it does.
func truncatedCertificate(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	_, chain := pair(w.t)
	w.put(from, "cut/fullchain.pem", chain[:len(chain)/2])
	w.await(reports(control.HeldFile, from, "cut/fullchain.pem"))
	w.witness(from, to)
	w.never("cut/fullchain.pem", to)
	w.put(from, "cut/fullchain.pem", chain)
	w.arrives("cut/fullchain.pem", chain, to)
	w.await(quiet(control.HeldFile))
}

// A key that was whole is cut off. The others keep the whole one.
func truncatedKey(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	key, chain := w.pairAt("keep/privkey.pem", "keep/fullchain.pem", from, to)
	w.put(from, "keep/privkey.pem", key[:len(key)/3])
	w.await(reports(control.HeldFile, from, "keep/privkey.pem"))
	w.witness(from, to)
	w.has(to, "keep/privkey.pem", key)
	w.has(to, "keep/fullchain.pem", chain)
	w.put(from, "keep/privkey.pem", key)
	w.await(quiet(control.HeldFile))
}

// pairAt puts a new pair in place on the first node and waits until the others have it.
func (w *world) pairAt(keyName, chainName string, from *real.Node, to ...*real.Node) (key, chain string) {
	w.t.Helper()
	key, chain = pair(w.t)
	w.put(from, keyName, key)
	w.put(from, chainName, chain)
	w.arrives(keyName, key, to...)
	w.arrives(chainName, chain, to...)
	return key, chain
}

// The new certificate is here long before its key: the others serve the old pair meanwhile, then the new one.
func certificateFirst(w *world) {
	halfFirst(w, "first/privkey.pem", "first/fullchain.pem", true)
}

// The same the other way round, and by other programs' names.
func keyFirst(w *world) {
	halfFirst(w, "shop.key", "shop.crt", false)
}

func halfFirst(w *world, keyName, chainName string, chainFirst bool) {
	w.t.Helper()
	from, to := w.Nodes[0], w.Nodes[1]
	oldKey, oldChain := w.pairAt(keyName, chainName, from, to)
	key, chain := pair(w.t)
	if chainFirst {
		w.put(from, chainName, chain)
	} else {
		w.put(from, keyName, key)
	}
	w.await(func(all []control.Status) (bool, string) {
		if ok, _ := reports(control.HeldFile, from, keyName)(all); ok {
			return true, ""
		}
		return reports(control.HeldFile, from, chainName)(all)
	})
	w.witness(from, to)
	w.has(to, keyName, oldKey)
	w.has(to, chainName, oldChain)
	w.put(from, keyName, key)
	w.put(from, chainName, chain)
	w.arrives(keyName, key, to)
	w.arrives(chainName, chain, to)
	w.await(quiet(control.HeldFile))
}

// Two sites' files and two generations lie in one directory. A key is held against its own certificate only.
func pairsSideBySide(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	for _, names := range [][2]string{
		{"many/a.key", "many/a.crt"}, {"many/b.key", "many/b.crt"},
		{"many/privkey1.pem", "many/fullchain1.pem"}, {"many/privkey2.pem", "many/fullchain2.pem"},
		{"many/c.example.com.key.pem", "many/c.example.com.cert.pem"}, {"many/d.example.com-key.pem", "many/d.example.com.pem"},
	} {
		w.pairAt(names[0], names[1], from, to)
	}
	w.await(quiet(control.HeldFile))
}

// What is in a PEM file beside keys and certificates, or alone, is no reason to hold it.
func wholeIfUnusual(w *world) {
	from, to := w.Nodes[0], w.Nodes[1]
	key, chain := pair(w.t)
	otherKey, otherChain := pair(w.t)
	block := func(kind string, headers map[string]string) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Headers: headers, Bytes: []byte(strings.Repeat("x", 10*aes.BlockSize))}))
	}
	for name, content := range map[string]string{
		"odd/lone.key":       key,
		"odd/haproxy.pem":    otherChain + otherKey,
		"odd/bundle.crt":     chain + otherChain,
		"odd/explained.crt":  "Certificate:\n    Data:\n        Version: 3 (0x2)\n" + chain,
		"odd/crlf.crt":       strings.ReplaceAll(chain, "\n", "\r\n"),
		"odd/unended.crt":    strings.TrimSuffix(chain, "\n"),
		"odd/dhparam.pem":    block("DH PARAMETERS", nil),
		"odd/ec.key":         block("EC PARAMETERS", nil) + key,
		"odd/encrypted.key":  block("ENCRYPTED PRIVATE KEY", nil),
		"odd/passphrase.key": block("RSA PRIVATE KEY", map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-256-CBC,00"}),
		"odd/list.pem":       block("X509 CRL", nil),
	} {
		w.put(from, name, content)
		w.arrives(name, content, to)
	}
	w.await(quiet(control.HeldFile))
}
