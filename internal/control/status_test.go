package control_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"certswarm/internal/control"
	"certswarm/internal/fleet"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// healthy is a fleet of three in which nothing is wrong, told by fe2.
func healthy() control.Status {
	served := func(node string) control.Served {
		return control.Served{Node: node, Listener: "127.0.0.1:443", KeyType: "ecdsa", State: control.Current}
	}
	return control.Status{
		Node:    control.Node{Name: "fe2", ID: fleet.NodeID{2}, Role: fleet.Issuer, Version: "1.2.3", UptimeSeconds: 12.5, Serves: true},
		Cluster: "edge",
		Lease: control.Lease{Engine: "raft", Holder: "fe1", Epoch: fleet.Epoch{Generation: 1, Nonce: 7, Term: 2, Index: 9}, Renewed: control.At(noon),
			Leader: "fe1", Wished: 3, Voters: control.List[control.Voter]{{Name: "fe1", Connected: true, Listed: true}}},
		Directories: []control.Directory{
			{Name: "certs", Path: "/etc/nginx/certs", Files: 31, Fingerprint: "00ff", State: control.InSync},
		},
		Peers: []control.Peer{
			{Name: "fe1", ID: fleet.NodeID{1}, Role: fleet.Issuer, Connected: true, Address: "10.0.0.1:7443", RTTSeconds: 0.0004, LastHeard: control.At(noon), Version: "1.2.3", Serves: true},
			{Name: "fe3", ID: fleet.NodeID{3}, Role: fleet.Receive, Connected: true, Address: "10.0.0.3:7443", RTTSeconds: 0.0005, LastHeard: control.At(noon), Version: "1.2.3", Serves: true},
		},
		Certificates: []control.Certificate{{
			Name: "www.example.com", Names: []string{"www.example.com", "example.com"}, Serial: "4f2a", NotAfter: control.At(noon.Add(60 * 24 * time.Hour)),
			Generation: 7, State: control.Issued, NextAttempt: control.At(noon.Add(30 * 24 * time.Hour)),
			Served: []control.Served{served("fe1"), served("fe2"), served("fe3")},
		}},
	}
}

func TestStatusFollowsItsPublishedSchema(t *testing.T) {
	troubled := healthy()
	troubled.Peers[0].Missing = []string{"live/a/privkey.pem"}
	troubled.Problems = []control.Problem{{Code: control.PeerLost, Severity: control.PeerLost.Severity(), Since: control.At(noon), Node: "fe3", Text: "gone"}}
	idle := control.Status{ // a sync agent that has just begun: nothing is planned, nothing is known
		Node:         control.Node{Role: fleet.Witness},
		Directories:  []control.Directory{{State: control.Joining}},
		Peers:        []control.Peer{{Role: fleet.Receive}},
		Certificates: []control.Certificate{{State: control.Placeholder}},
	}
	var schema schemaNode
	if err := json.Unmarshal([]byte(control.StatusSchema()), &schema); err != nil {
		t.Fatal(err)
	}
	for name, status := range map[string]control.Status{"healthy": healthy(), "troubled": troubled, "idle": idle} {
		text, err := json.Marshal(status)
		if err != nil {
			t.Fatal(err)
		}
		var value any
		if err := json.Unmarshal(text, &value); err != nil {
			t.Fatal(err)
		}
		for _, fault := range schema.faults("status", value) {
			t.Errorf("%s: %s", name, fault)
		}
	}
}

// schemaNode is as much of JSON Schema as the published one uses.
type schemaNode struct {
	Type       any                   `json:"type"`
	Const      any                   `json:"const"`
	Enum       []any                 `json:"enum"`
	Pattern    string                `json:"pattern"`
	Format     string                `json:"format"`
	Minimum    *float64              `json:"minimum"`
	MaxItems   *int                  `json:"maxItems"`
	Properties map[string]schemaNode `json:"properties"`
	Required   []string              `json:"required"`
	Items      *schemaNode           `json:"items"`
}

// faults lists where value departs from the schema. A field that the schema does not know is a fault here: the reader
// of a status must ignore it, its writer must publish it.
func (n schemaNode) faults(at string, value any) (found []string) {
	fault := func(format string, args ...any) { found = append(found, at+" "+fmt.Sprintf(format, args...)) }
	if n.Type != nil && !n.admits(value) {
		fault("is %T, not %v", value, n.Type)
		return found
	}
	if n.Const != nil && value != n.Const {
		fault("is %v, not %v", value, n.Const)
	}
	if n.Enum != nil && !slices.Contains(n.Enum, value) {
		fault("is %v, not one of %v", value, n.Enum)
	}
	switch v := value.(type) {
	case string:
		if n.Pattern != "" && !regexp.MustCompile(n.Pattern).MatchString(v) {
			fault("is %q, which is not %s", v, n.Pattern)
		}
		if _, err := time.Parse("2006-01-02T15:04:05Z", v); n.Format == "date-time" && err != nil {
			fault("%v", err)
		}
	case float64:
		if n.Minimum != nil && v < *n.Minimum {
			fault("is %v", v)
		}
	case []any:
		if n.MaxItems != nil && len(v) > *n.MaxItems {
			fault("has %d items", len(v))
		}
		for i, item := range v {
			found = append(found, n.Items.faults(fmt.Sprintf("%s[%d]", at, i), item)...)
		}
	case map[string]any:
		for _, name := range n.Required {
			if _, there := v[name]; !there {
				fault("lacks %s", name)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(v)) {
			if property, known := n.Properties[name]; known {
				found = append(found, property.faults(at+"."+name, v[name])...)
			} else {
				fault("has %s, which is not published", name)
			}
		}
	}
	return found
}

func (n schemaNode) admits(value any) bool {
	admitted, several := n.Type.([]any)
	if !several {
		admitted = []any{n.Type}
	}
	kind := map[reflect.Kind]string{reflect.Bool: "boolean", reflect.String: "string", reflect.Float64: "number", reflect.Slice: "array", reflect.Map: "object", reflect.Invalid: "null"}[reflect.ValueOf(value).Kind()]
	whole, isNumber := value.(float64)
	return slices.Contains(admitted, any(kind)) || isNumber && whole == float64(int64(whole)) && slices.Contains(admitted, any("integer"))
}

func TestStatusSurvivesTheWire(t *testing.T) {
	want := healthy()
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got control.Status
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if string(again) != string(text) {
		t.Errorf("after a round trip\n%s\nnot\n%s", again, text)
	}
}

func TestTimesAreUTCToTheSecondOrNull(t *testing.T) {
	berlin := time.FixedZone("CET", 3600)
	for want, moment := range map[string]time.Time{
		`null`:                   {},
		`"2026-03-01T12:00:00Z"`: noon.Add(900 * time.Millisecond).In(berlin),
	} {
		got, err := json.Marshal(control.At(moment))
		if err != nil || string(got) != want {
			t.Errorf("%v is %s, %v, not %s", moment, got, err, want)
		}
		var back control.Time
		if err := json.Unmarshal(got, &back); err != nil || back != control.At(moment) {
			t.Errorf("%s reads as %v, %v", got, back, err)
		}
	}
	var moment control.Time
	if err := json.Unmarshal([]byte(`"yesterday"`), &moment); err == nil {
		t.Error("yesterday was read as a time")
	}
}

func TestEveryPublishedProblemCodeHasASeverity(t *testing.T) {
	var schema schemaNode
	if err := json.Unmarshal([]byte(control.StatusSchema()), &schema); err != nil {
		t.Fatal(err)
	}
	codes := schema.Properties["problems"].Items.Properties["code"].Enum
	if len(codes) != 31 {
		t.Errorf("%d codes are published, not 31", len(codes))
	}
	severities := make(map[control.Severity]int)
	for _, code := range codes {
		severities[control.Code(code.(string)).Severity()]++
	}
	if severities[control.Warn]+severities[control.Error] != len(codes) || severities[control.Warn] == 0 {
		t.Errorf("severities: %v", severities)
	}
	if got := control.Code("invented").Severity(); got != control.Error {
		t.Errorf("an unlisted code is %q: what nobody thought of must not be played down", got)
	}
}

func TestConditions(t *testing.T) {
	synced := func(s control.Status) (bool, string) { return control.IsSynced(s) }
	issued := func(s control.Status) (bool, string) { return control.IsIssued(s, "www.example.com") }
	served := func(s control.Status) (bool, string) { return control.IsServed(s, "www.example.com") }
	for name, test := range map[string]struct {
		condition func(control.Status) (bool, string)
		change    func(*control.Status)
		why       string // "" when the condition holds; else what the reason must contain
	}{
		"synced: all is well": {synced, func(*control.Status) {}, ""},
		"synced: this node is behind": {synced, func(s *control.Status) {
			s.Directories[0].State, s.Directories[0].Reason = control.Behind, "2 files to fetch"
		}, "directory certs on fe2 is behind: 2 files to fetch"},
		"synced: a halted directory originates nothing": {synced, func(s *control.Status) { s.Directories[0].State = control.Halted }, "is halted"},
		"synced: a live peer lacks files": {synced, func(s *control.Status) {
			s.Peers[1].Behind, s.Peers[1].Missing = 3, []string{"a.pem", "b.pem"}
		}, "fe3 has not confirmed 3 changes: a.pem, b.pem and 1 more"},
		"synced: a dead peer is not waited for": {synced, func(s *control.Status) {
			s.Peers[1].Behind, s.Peers[1].Connected = 3, false
		}, ""},

		"issued: all is well":               {issued, func(*control.Status) {}, ""},
		"issued: by another client":         {issued, func(s *control.Status) { s.Certificates[0].State = control.External }, ""},
		"issued: a placeholder is not":      {issued, func(s *control.Status) { s.Certificates[0].State = control.Placeholder }, "still a placeholder"},
		"issued: an order under way is not": {issued, func(s *control.Status) { s.Certificates[0].State = control.Issuing }, "www.example.com is issuing"},
		"issued: a failure says why": {issued, func(s *control.Status) {
			s.Certificates[0].State, s.Certificates[0].LastError = control.Failed, "the CA said no"
		}, "www.example.com is failed: the CA said no"},
		"issued: an undeclared name":            {issued, func(s *control.Status) { s.Certificates = nil }, "no certificate is declared as www.example.com"},
		"issued: not held up by another name":   {issued, func(s *control.Status) { s.Certificates = append(s.Certificates, control.Certificate{Name: "b"}) }, ""},
		"served: all is well":                   {served, func(*control.Status) {}, ""},
		"served: a placeholder is never enough": {served, func(s *control.Status) { s.Certificates[0].State = control.Placeholder }, "still a placeholder"},
		"served: one key type is stale": {served, func(s *control.Status) {
			s.Certificates[0].Served = append(s.Certificates[0].Served, control.Served{Node: "fe3", Listener: "[::1]:443", KeyType: "rsa", State: control.Stale})
		}, "www.example.com on fe3 at [::1]:443 (rsa) is stale"},
		"served: a live node that was not asked":      {served, func(s *control.Status) { s.Certificates[0].Served = s.Certificates[0].Served[:2] }, "not yet been seen at any listener of fe3"},
		"served: unverified is not served":            {served, func(s *control.Status) { s.Certificates[0].Served[0].State = control.Unverified }, "on fe1"},
		"served: an unreachable nginx of a live node": {served, func(s *control.Status) { s.Certificates[0].Served[1].State = control.Unreachable }, "on fe2 at 127.0.0.1:443 (ecdsa) is unreachable"},
		"served: a dead node is not waited for": {served, func(s *control.Status) {
			s.Certificates[0].Served[2].State, s.Peers[1].Connected = control.Unreachable, false
		}, ""},
		"served: a node without nginx does not count": {served, func(s *control.Status) {
			s.Certificates[0].Served, s.Peers[1].Serves = s.Certificates[0].Served[:2], false
		}, ""},
		"served: nor does this one": {served, func(s *control.Status) {
			s.Certificates[0].Served, s.Node.Serves = append(s.Certificates[0].Served[:1], s.Certificates[0].Served[2]), false
		}, ""},
		"served: no server of a live node uses it": {served, func(s *control.Status) {
			s.Certificates[0].Served, s.Certificates[0].Unused = s.Certificates[0].Served[:2], []string{"fe3"}
		}, "no server of fe3's nginx uses www.example.com"},
		"served: where no server uses it, unless it is meant": {func(s control.Status) (bool, string) { return control.IsServed(s, "") }, func(s *control.Status) {
			s.Certificates[0].Served, s.Certificates[0].Unused = s.Certificates[0].Served[:2], []string{"fe3"}
		}, ""},
		"served: an undeclared name": {served, func(s *control.Status) { s.Certificates = nil }, "no certificate is declared"},
	} {
		t.Run(name, func(t *testing.T) {
			status := healthy()
			test.change(&status)
			ok, why := test.condition(status)
			if ok != (test.why == "") || !strings.Contains(why, test.why) || ok && why != "" {
				t.Errorf("%v, %q; want %q", ok, why, test.why)
			}
		})
	}
}

func TestConditionsWithoutANameMeanEveryCertificate(t *testing.T) {
	status := healthy()
	if ok, why := control.IsServed(status, ""); !ok {
		t.Error(why)
	}
	status.Certificates = append(status.Certificates, control.Certificate{Name: "b", State: control.Placeholder})
	for name, condition := range map[string]func(control.Status, string) (bool, string){"issued": control.IsIssued, "served": control.IsServed} {
		if ok, why := condition(status, ""); ok || why != "b is still a placeholder" {
			t.Errorf("%s: %v, %q", name, ok, why)
		}
	}
}

func TestVerdict(t *testing.T) {
	for name, test := range map[string]struct {
		states []control.ServedState
		want   int
	}{
		"nothing to ask":                {nil, 0},
		"all current":                   {[]control.ServedState{control.Current, control.Current}, 0},
		"one unreachable":               {[]control.ServedState{control.Current, control.Unreachable}, 3},
		"one unverified":                {[]control.ServedState{control.Unverified}, 3},
		"a mismatch outweighs the rest": {[]control.ServedState{control.Unreachable, control.Stale, control.Unreachable}, 1},
	} {
		var v control.Verification
		for _, state := range test.states {
			v.Results = append(v.Results, control.Result{State: state})
		}
		if got := v.Verdict(); got != test.want {
			t.Errorf("%s: %d, not %d", name, got, test.want)
		}
	}
}
