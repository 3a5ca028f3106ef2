package agent_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certswarm/internal/control"
	"certswarm/testnet"
)

// withWitness is a fleet whose third node only votes, with a certificate in force that has so much left of its life, and a CA that gives no other.
func withWitness(t *testing.T, left time.Duration, change func(yaml string) string) *testnet.Fleet {
	t.Helper()
	options := withCertificates(testnet.Options{Nodes: 4, Roles: []string{"issuer", "issuer", "witness", "member"}})
	config := options.Config
	options.Config = func(node int, yaml string) string { return change(config(node, yaml)) }
	f := testnet.NewDown(t, options)
	key, certificate := pairWith(t, 0x10, left)
	for file, text := range map[string]string{"privkey.pem": key, "fullchain.pem": certificate} {
		place := f.Path(0, "live/"+www+"/"+file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(place), 0o755), os.WriteFile(place, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for node := range options.Nodes {
		f.Start(node)
	}
	f.Advance(time.Minute) // Settle would wait for files on the witness
	return f
}

// A witness has no certificate, and tells of the fleet's all the same: commands about them end on it as on any other node.
func TestAWitnessTellsWhatTheFleetHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := withWitness(t, 90*days, func(yaml string) string {
			return strings.Replace(yaml, "nginx: {enabled: true", "nginx: {enabled: false", 1)
		})
		of := func(node int) control.Certificate {
			t.Helper()
			s := f.Status(node)
			if len(s.Certificates) != 1 {
				t.Fatalf("fe%d: %+v", node+1, s.Certificates)
			}
			return s.Certificates[0]
		}
		there, here := of(0), of(2)
		if here.State != control.Issued || here.Serial != "10" || here.Generation != 1 || here.NotAfter != there.NotAfter || here.NotAfter.IsZero() {
			t.Errorf("%+v, and on an issuer %+v", here, there)
		}
		for _, is := range []func(control.Status, string) (bool, string){control.IsIssued, control.IsServed} {
			if ok, why := is(f.Status(2), ""); !ok {
				t.Error(why)
			}
		}
		asked := obtain(t.Context(), f.Agent(2), control.Order{Name: www})
		f.Advance(5 * time.Second)
		if !asked.ended.Load() || asked.err != nil || !asked.done.Unneeded || !asked.done.Served || asked.done.Serial != "10" || asked.done.Generation != 1 {
			t.Errorf("%+v, %v", &asked.done, asked.err)
		}
		f.Advance(6 * time.Minute)
		if tells(f.Status(2), control.PlaceholderServed, "") {
			t.Errorf("%+v", f.Status(2).Problems)
		}
		f.CutAll(2)
		f.Advance(time.Minute)
		if ok, why := control.IsIssued(f.Status(2), ""); ok || !strings.Contains(why, "fe3 keeps no certificates, and no node that does is heard from") || tells(f.Status(2), control.PlaceholderServed, "") {
			t.Errorf("on its own: %v, %s, %+v", ok, why, f.Status(2).Problems)
		}
		f.Heal()
		f.Advance(time.Minute)
		if here := of(2); here.Serial != "10" || here.LastError != "" {
			t.Errorf("%+v", here)
		}
	})
}

// What runs out is said on a witness too, and an nginx is in nobody's care there, for it has nothing to serve.
func TestAWitnessSaysWhatRunsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := withWitness(t, 7*days, func(yaml string) string { return yaml })
		if s := f.Status(2); s.Node.Serves || !tells(s, control.CertificateExpiring, www+" expires at ") {
			t.Errorf("%+v, %+v", s.Node, s.Problems)
		}
		for _, p := range f.Status(0).Peers {
			if p.Serves != (p.Name != "fe3") {
				t.Errorf("%s serves: %v", p.Name, p.Serves)
			}
		}
	})
}
