package real

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"text/template"
)

// configText is an agent's configuration. Everything is spelt as an operator would; what is not here has its default.
var configText = template.Must(template.New("certswarm.yaml").Funcs(template.FuncMap{"q": quoted}).Parse(`version: 1
cluster: {{q .Config.Cluster}}
state_dir: {{q .Node.State}}
control_socket: {{q .Node.Socket}}
listen: {{q .Node.Listen}}
peers:
{{- range .Peers}}
  - name: {{q .Name}}
    id: {{q .ID}}
    addresses: [{{q .Address}}]
{{- with index $.Config.Roles .Name}}
    roles: [{{q .}}]
{{- end}}
{{- end}}
directories:
  - name: certs
    path: {{q .Node.Certs}}
{{- range .Config.Directory}}
    {{.}}
{{- end}}
{{- if .Config.Names}}
acme:
  directory: {{q .Directory}}
  staging_directory: {{q .Directory}}
  ca_file: {{q .CAFile}}
  email: ops@example.com
  accept_terms: true
  http01_address: {{q .Node.HTTP}}
  http01_socket: {{q .Node.FrontEndConfig.Socket}}
{{- range .Config.ACME}}
  {{.}}
{{- end}}
certificates:
{{- range .Config.Certificates}}
  - name: {{q (index . 0)}}
    names:
{{- range .}}
      - {{q .}}
{{- end}}
{{- if $.Config.Paired (index . 0)}}
    key: [ecdsa-p256, rsa-2048]
{{- end}}
{{- end}}
nginx:
  binary: {{q .Node.FrontEndPaths.Binary}}
  config: {{q .Node.FrontEndPaths.ConfigFile}}
  prefix: {{q .Node.FrontEndPaths.Prefix}}
{{- end}}
{{- with .Config.Lease}}
lease:
{{- range .}}
  {{.}}
{{- end}}
{{- end}}
`))

// Certificates returns the names of each certificate.
func (c Config) Certificates() [][]string {
	all := append([][]string{c.Names}, c.More...)
	for _, name := range c.Unserved {
		all = append(all, []string{name})
	}
	return all
}

// Paired reports whether the certificate called name is half of a pair.
func (c Config) Paired(name string) bool { return slices.Contains(c.Pairs, name) }

// quoted writes a text as YAML takes it whatever is in it.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// Roster returns the members that the fleet was started with.
func (f *Fleet) Roster() []Peer {
	var roster []Peer
	for _, n := range f.Nodes {
		roster = append(roster, n.Peer())
	}
	return append(roster, f.config.Others...)
}

// WriteConfigs writes the configuration of every node. Agents that run do not take notice of it before they are told to
// reload.
func (f *Fleet) WriteConfigs(roster []Peer) error {
	for _, n := range f.Nodes {
		values := struct {
			Config            Config
			Node              *Node
			Peers             []Peer
			Directory, CAFile string
		}{Config: f.config, Node: n, Peers: roster, CAFile: f.caFile()}
		if f.CA != nil {
			values.Directory = f.CA.DirectoryURL()
		}
		var text strings.Builder
		if err := configText.Execute(&text, values); err != nil {
			return fmt.Errorf("the configuration of %s: %w", n.Name, err)
		}
		if err := os.WriteFile(n.ConfigFile, []byte(text.String()), 0o644); err != nil {
			return err
		}
	}
	return nil
}
