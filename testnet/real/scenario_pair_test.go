package real_test

import (
	"crypto/tls"
	"crypto/x509"
	"testing"

	"certswarm/internal/need"
	"certswarm/testnet/ca"
	"certswarm/testnet/real"
)

// An ECDSA and RSA pair is two certificates for the same names. A real nginx gives each client the one that it can use, and every node proves
// both. A CA that returns its pending order to whoever orders the same names again issues one of each.
func TestAPairOfKeys(t *testing.T) {
	t.Parallel()
	faults := new(ca.Faults)
	faults.ReuseOrders()
	config := issuing(2, faults, names[0])
	config.FrontEnd, config.Pairs = need.Tool(t, "nginx"), []string{names[0]}
	w := start(t, config)
	w.await(real.Served)
	w.cost(cost{1, 2, 2})

	serials := map[string]string{}
	for _, c := range w.status(w.Nodes[0]).Certificates {
		serials[c.Name] = c.Serial
		for _, at := range c.Served {
			if want := map[string]string{names[0]: "ecdsa", names[0] + "-rsa": "rsa"}[c.Name]; at.KeyType != want || at.State != "current" {
				t.Errorf("%s: %+v", c.Name, at)
			}
		}
	}
	shows := func(n *real.Node, suite uint16) string {
		t.Helper()
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(w.CA.IssuingRoot())
		client := tls.Dialer{Config: &tls.Config{
			ServerName: names[0], RootCAs: roots, MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite},
		}}
		conn, err := client.DialContext(w.ctx, "tcp", n.HTTPS())
		w.must(err)
		serial := conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Text(16)
		w.must(conn.Close())
		return serial
	}
	for _, n := range w.Nodes {
		if got := shows(n, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256); got != serials[names[0]] {
			t.Errorf("%s shows %s to clients of ECDSA, not %s", n.Name, got, serials[names[0]])
		}
		if got := shows(n, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256); got != serials[names[0]+"-rsa"] {
			t.Errorf("%s shows %s to clients of RSA, not %s", n.Name, got, serials[names[0]+"-rsa"])
		}
	}

	w.said(w.Nodes[1], 0, nil, "cert", "renew", names[0]+"-rsa")
	w.await(real.Served)
	w.cost(cost{1, 3, 3})
	for _, c := range w.status(w.Nodes[1]).Certificates {
		if same := c.Serial == serials[c.Name]; same != (c.Name == names[0]) {
			t.Errorf("%s has serial %s, and had %s", c.Name, c.Serial, serials[c.Name])
		}
	}
}
