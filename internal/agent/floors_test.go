package agent_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Imports only fall (docs/ARCHITECTURE.md, "The map"). These tables say so for every package, with the reason that a
// failing test then gives. A pattern that ends in "/..." is the package and all below it, for those that have no entry
// of their own. A new package fails until it has its place here.

const module = "certswarm"

// room is a package and which other packages of this module it may import.
type room struct {
	pattern string
	may     []string
	tests   []string // what its tests may import besides
	why     string   // nothing else may be imported
}

const strangers = "an engine knows the ground and no other engine: they meet in internal/agent, as data, so that each can be understood, tested and replaced alone"

var rooms = []room{
	{pattern: "internal/fleet", why: "it is the vocabulary that everybody speaks: it can be below everybody only if it is above nobody"},
	{pattern: "internal/durable", why: "it knows files, not what is in them: power loss is hard enough alone"},
	{pattern: "internal/need", why: "it is for tests of any package, so that it must not know one"},
	{pattern: "internal/bubble", why: "it is for tests of any package, so that it must not know one"},

	{pattern: "syncer/index", may: []string{"internal/fleet"}, why: "what the fleet knows is decided without disk, network or clock: every rule is a table test"},
	{pattern: "syncer/wire", may: []string{"internal/fleet", "syncer/index"}, why: "it is the bytes of what index knows: whoever reads PROTOCOL.md need read nothing else"},
	{pattern: "syncer/pairs", may: []string{"syncer/index"}, why: "which files go together is told by their names and bytes alone: it needs paths, and every rule is a table test"},

	{pattern: "syncer/state", may: []string{"internal/fleet", "internal/durable", "syncer/index", "syncer/wire"},
		why: "it keeps what a replica tells it, and gives it back: what follows from that is not its business"},

	{pattern: "syncer", may: []string{"internal/fleet", "internal/durable", "syncer/index", "syncer/pairs", "syncer/state", "syncer/wire"}, why: strangers},
	{pattern: "acmeclient", may: []string{"internal/fleet", "internal/durable"}, tests: []string{"testnet/ca"}, why: strangers},
	{pattern: "nginx", may: []string{"internal/fleet", "internal/durable"}, tests: []string{"testnet/ca", "testnet/frontend"}, why: strangers},
	{pattern: "internal/lease/rules", may: []string{"internal/fleet"}, why: "who may act is decided without disk, network or clock: every rule is a table test"},
	{pattern: "internal/lease", may: []string{"internal/fleet", "internal/durable", "internal/lease/rules"}, why: strangers},
	{pattern: "internal/peer", may: []string{"internal/fleet", "internal/durable"}, why: strangers},

	{pattern: "internal/control", may: []string{"internal/fleet"}, tests: []string{"testnet/crowd", "testnet/prometheus"}, why: "the operator's view is a contract of its own: the assembly fills it in, and no engine's type may leak into its JSON"},
	{pattern: "internal/agent/config", may: []string{"internal/fleet"}, why: "configuration is checked offline, in 100 ms, without anything that it configures"},
	{pattern: "internal/doctor", may: []string{"internal/agent/config", "internal/control", "internal/fleet"}, tests: []string{"internal/peer"},
		why: "it judges the machine around a daemon and must work when there is none: it starts no engine"},
	{pattern: "internal/agent", may: []string{"internal/...", "syncer/...", "acmeclient", "nginx"}, tests: []string{"testnet/..."}, why: "the assembly knows everything below it and neither of the doors"},

	{pattern: "cmd/certswarm", may: []string{"internal/agent", "internal/agent/config", "internal/control", "internal/doctor", "internal/fleet", "internal/peer"}, tests: []string{"testnet/..."},
		why: "a door is flags, exit codes and what is printed: the daemon is internal/agent, its face internal/control, a node's key internal/peer, and engines are reached through these"},
	{pattern: "testnet/crowd", why: "tests of any room may import it, so that it must not know one"},
	{pattern: "testnet/prometheus", why: "tests of any room may import it, so that it must not know one"},
	{pattern: "testnet/ca", may: []string{"internal/fleet"}, why: "tests of the engines import it: if it knew one, it would believe what it ought to check"},
	{pattern: "testnet/frontend", may: []string{"internal/fleet"}, why: "tests of the engines import it: if it knew one, it would believe what it ought to check"},
	{pattern: "testnet/...", may: []string{"internal/...", "syncer/...", "acmeclient", "nginx", "testnet/..."}, why: "a test fleet is made of what the daemon is made of, and not of a command line"},
	{pattern: "systemd", why: "it holds units and the test that reads them"},
}

// outsider is a package from elsewhere and the only rooms that may know it.
type outsider struct {
	pattern string
	in      []string
	inTests []string // the tests of these too; "..." is everywhere
	why     string
}

var outsiders = []outsider{
	{pattern: "os/exec", in: []string{"nginx", "cmd/certswarm", "testnet/...", "internal/need"}, inTests: []string{"..."},
		why: "starting a program is a dangerous act with few homes: nginx tests and reloads, cmd runs what `lease run` was given"},
	{pattern: "testing/...", in: []string{"internal/need", "testnet/..."}, inTests: []string{"..."}, why: "it registers flags and has no place in a daemon"},
	{pattern: "go.etcd.io/raft/...", in: []string{"internal/lease"}, why: "the consensus is hidden behind lease.Elector"},
	{pattern: "github.com/anishathalye/porcupine", inTests: []string{"internal/lease", "testnet/..."}, why: "it is for tests"},
	{pattern: "pgregory.net/rapid", in: []string{"testnet/..."}, inTests: []string{"..."}, why: "it is for tests"},
	{pattern: module + "/internal/need", in: []string{"testnet/..."}, inTests: []string{"..."}, why: "it is for tests"},
	{pattern: module + "/internal/bubble", inTests: []string{"..."}, why: "it is for tests"},
	{pattern: "github.com/quic-go/quic-go/testutils/...", in: []string{"testnet/..."}, inTests: []string{"internal/peer"},
		why: "a simulated network is the test fleet's; peer's own tests need one below the assembly"},
	{pattern: "github.com/quic-go/quic-go/...", in: []string{"internal/peer", "testnet/..."}, why: "who is who is proven in one place: all others get sessions, never sockets"},
	{pattern: "github.com/letsencrypt/...", in: []string{"testnet/..."}, why: "a CA is part of the test fleet and never of the daemon"},
	{pattern: "github.com/miekg/dns", in: []string{"testnet/..."}, why: "a name server is part of the test fleet and never of the daemon"},
	{pattern: "golang.org/x/crypto/acme/...", in: []string{"acmeclient"}, inTests: []string{"testnet/ca"}, why: "one package speaks to the CA, so that one package keeps count of what it was asked"},
	{pattern: "go.etcd.io/bbolt/...", in: []string{"syncer/state", "internal/lease"}, why: "a database that is damaged is met where it is opened: nobody else sees a transaction"},
	{pattern: "github.com/urfave/cli/...", in: []string{"cmd/certswarm"}, why: "flags end at the door"},
	{pattern: "go.yaml.in/yaml/...", in: []string{"internal/agent/config"}, why: "configuration is parsed once, at the border; all others get values"},
	{pattern: "github.com/fsnotify/fsnotify", in: []string{"syncer"}, why: "a hint that a file changed is worth nothing without the scan that follows"},
}

// pure rooms have no effects: what they decide can be replayed.
var (
	pure    = []string{"internal/fleet", "internal/lease/rules", "syncer/index", "syncer/pairs", "syncer/wire"}
	effects = []string{"os/...", "io/ioutil", "net", "net/http/...", "syscall", "golang.org/x/sys/...", "log/...", "crypto/rand", "math/rand/..."}
)

// neverLinked is what must not be in the daemon, whoever might bring it.
var neverLinked = []string{
	"testing/...", "pgregory.net/rapid", "github.com/quic-go/quic-go/testutils/...", "github.com/letsencrypt/...",
	"github.com/miekg/dns/...", module + "/testnet/...", module + "/internal/need", module + "/internal/bubble",
}

// forTests is what any test may import.
var forTests = []string{"internal/need", "internal/bubble"}

const durableOnly = "files are created, renamed and removed in internal/durable alone, where it is done so that power loss and a hostile symlink cost nothing"

// fileActs are the functions that create, rename or remove. OpenFile and Open count when their flags create.
var fileActs = map[string][]string{
	"os":                    {"Create", "CreateTemp", "CopyFS", "Link", "Mkdir", "MkdirAll", "MkdirTemp", "OpenFile", "OpenInRoot", "OpenRoot", "Remove", "RemoveAll", "Rename", "Symlink", "Truncate", "WriteFile"},
	"syscall":               {"Creat", "Link", "Mkdir", "Mkdirat", "Mknod", "Open", "Openat", "Rename", "Renameat", "Rmdir", "Symlink", "Truncate", "Unlink", "Unlinkat"},
	"golang.org/x/sys/unix": {"Creat", "Link", "Linkat", "Mkdir", "Mkdirat", "Mknod", "Mknodat", "Open", "Openat", "Openat2", "Rename", "Renameat", "Renameat2", "Rmdir", "Symlink", "Symlinkat", "Truncate", "Unlink", "Unlinkat"},
}

var creatingFlags = []string{"O_CREATE", "O_CREAT", "O_TRUNC", "O_TMPFILE"}

// fileExceptions are the acts that another package may do all the same; a package absent here may do none.
var fileExceptions = []struct {
	pattern string
	acts    []string // none: all
	why     string
}{
	{pattern: "internal/durable", why: "it is the home of these acts"},
	{pattern: "testnet/...", why: "a test fleet's files may be lost with it"},
	{"internal/control", []string{"os.MkdirAll", "os.Remove"}, "a socket holds nothing that could be lost: its directory is made and a dead daemon's socket removed where it is bound"},
	{"internal/agent", []string{"os.MkdirAll", "os.Remove"}, "the same for the socket of the challenge responder"},
	{"internal/peer", []string{"os.MkdirAll"}, "the state directory must be there before internal/durable can open it"},
}

func TestFloorsHold(t *testing.T) {
	for _, file := range sources(t, filepath.Join("..", "..")) {
		for _, fault := range faults(file) {
			t.Error(fault)
		}
	}
}

// TestFloorsBubbles: under the race detector a bubble whose timers fire on two processors kills the process.
func TestFloorsBubbles(t *testing.T) {
	imports := func(s source, name string) bool {
		return slices.ContainsFunc(s.syntax.Imports, func(spec *ast.ImportSpec) bool { return spec.Path.Value == strconv.Quote(name) })
	}
	uses, safe := map[string]bool{}, map[string]bool{}
	for _, s := range sources(t, filepath.Join("..", "..")) {
		uses[s.room] = uses[s.room] || s.isTest() && imports(s, "testing/synctest")
		safe[s.room] = safe[s.room] || s.isTest() && imports(s, module+"/internal/bubble")
	}
	for room, bubbles := range uses {
		if bubbles != safe[room] {
			t.Errorf("package %s: its tests use testing/synctest: %v, and import internal/bubble: %v", room, bubbles, safe[room])
		}
	}
}

func TestFloorsKeepTestSupportOutOfTheDaemon(t *testing.T) {
	output, err := exec.Command("go", "list", "-deps", module+"/cmd/certswarm").Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr(err))
	}
	for linked := range strings.FieldsSeq(string(output)) {
		if among(neverLinked, linked) {
			t.Errorf("certswarm links %s, which is for tests; who brings it: go list -deps -f '{{.ImportPath}}: {{.Imports}}' ./cmd/certswarm", linked)
		}
	}
}

// TestFloorsBite feeds the rules with what they are there to refuse, because a rule that matches nothing looks like a
// rule that is kept.
func TestFloorsBite(t *testing.T) {
	for _, c := range []struct {
		file, source string
		want         string // part of the one fault; empty: none
	}{
		{"syncer/a.go", `import "certswarm/syncer/index"`, ""},
		{"syncer/a.go", `import "certswarm/nginx"`, "no other engine"},
		{"syncer/a_test.go", `import "certswarm/nginx"`, "no other engine"},
		{"syncer/a_test.go", `import "certswarm/syncer"`, ""},
		{"acmeclient/a.go", `import "certswarm/testnet/ca"`, "no other engine"},
		{"acmeclient/a_test.go", `import "certswarm/testnet/ca"`, ""},
		{"syncer/index/a.go", `import "certswarm/internal/durable"`, "table test"},
		{"syncer/index/a.go", `import "os"`, "no effects"},
		{"syncer/index/a.go", `import "net/netip"`, ""},
		{"syncer/index/a_test.go", `import "os"`, ""},
		{"internal/fleet/a.go", `import "certswarm/internal/durable"`, "vocabulary"},
		{"internal/control/a.go", `import "certswarm/syncer"`, "leak"},
		{"internal/agent/a.go", `import "certswarm/testnet"`, "doors"},
		{"internal/agent/config/a.go", `import "certswarm/nginx"`, "offline"},
		{"cmd/certswarm/a.go", `import "certswarm/syncer"`, "a door is"},
		{"testnet/a.go", `import "certswarm/internal/agent"`, ""},
		{"testnet/ca/a.go", `import "certswarm/acmeclient"`, "believe"},
		{"internal/other/a.go", `import "fmt"`, "no place"},
		{"internal/lease/a.go", `import "os/exec"`, "dangerous act"},
		{"internal/lease/a_test.go", `import "os/exec"`, ""},
		{"internal/lease/a.go", `import "github.com/quic-go/quic-go"`, "never sockets"},
		{"internal/peer/a.go", `import "github.com/quic-go/quic-go/testutils/simnet"`, "simulated"},
		{"internal/peer/a_test.go", `import "github.com/quic-go/quic-go/testutils/simnet"`, ""},
		{"nginx/a.go", `import "certswarm/internal/need"`, "no other engine"},
		{"nginx/a_test.go", `import "certswarm/internal/need"`, ""},
		{"nginx/a.go", "import \"os\"\nvar _ = os.Rename", "power loss"},
		{"nginx/a.go", "import host \"os\"\nvar _ = host.WriteFile", "power loss"},
		{"nginx/a.go", "import \"os\"\nvar _, _ = os.OpenFile(\"a\", os.O_WRONLY|os.O_CREATE, 0)", "power loss"},
		{"nginx/a.go", "import \"os\"\nvar _, _ = os.OpenFile(\"a\", os.O_RDONLY, 0)", ""},
		{"nginx/a.go", "import \"golang.org/x/sys/unix\"\nvar _ = unix.Unlinkat", "power loss"},
		{"nginx/a_test.go", "import \"os\"\nvar _ = os.Rename", ""},
		{"internal/control/a.go", "import \"os\"\nvar _ = os.Remove", ""},
		{"internal/control/a.go", "import \"os\"\nvar _ = os.Rename", "power loss"},
	} {
		set := token.NewFileSet()
		syntax, err := parser.ParseFile(set, c.file, "package a\n"+c.source, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		got := faults(source{path.Dir(c.file), c.file, syntax, set})
		if c.want == "" && len(got) > 0 || c.want != "" && (len(got) == 0 || !strings.Contains(got[0], c.want)) {
			t.Errorf("%s with %q: faults %q, want %q", c.file, c.source, got, c.want)
		}
	}
}

// source is one Go file of this module.
type source struct {
	room   string // its package's directory, below the module
	name   string
	syntax *ast.File
	set    *token.FileSet
}

func (s source) isTest() bool { return strings.HasSuffix(s.name, "_test.go") }

// sources parses every Go file below root that belongs to this module, whatever its build constraints.
func sources(t *testing.T, root string) []source {
	t.Helper()
	var all []source
	set := token.NewFileSet()
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		switch base := entry.Name(); {
		case entry.IsDir() && below != "." && (base[0] == '.' || base[0] == '_' || base == "testdata" || below == "internal/tools"):
			return fs.SkipDir
		case entry.IsDir() || !strings.HasSuffix(base, ".go"):
			return nil
		}
		syntax, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
		all = append(all, source{filepath.ToSlash(filepath.Dir(below)), below, syntax, set})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatalf("there is no Go file below %s", root)
	}
	return all
}

// faults returns a line for each import and each act that is not allowed where it stands.
func faults(s source) []string {
	home, ok := roomOf(s.room)
	if !ok {
		return []string{fmt.Sprintf("%s: package %s has no place in the map: give it one in internal/agent/floors_test.go, with its reason", s.name, s.room)}
	}
	var found []string
	for _, spec := range s.syntax.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			panic(err) // the parser took it for a string
		}
		if why := refused(home, s, imported); why != "" {
			found = append(found, fmt.Sprintf("%s imports %s: %s", s.set.Position(spec.Pos()), imported, why))
		}
	}
	if !s.isTest() {
		found = append(found, fileFaults(s)...)
	}
	return found
}

// refused returns why the file must not import the package, or "".
func refused(home room, s source, imported string) string {
	if inside, ours := strings.CutPrefix(imported, module+"/"); ours && inside != s.room && !among(home.may, inside) {
		if !s.isTest() || !among(forTests, inside) && !among(home.tests, inside) {
			return home.why
		}
	}
	if among(pure, s.room) && among(effects, imported) && !s.isTest() {
		return "the package is pure: no effects, no randomness, nothing that a test could not replay"
	}
	for _, o := range outsiders {
		if !fits(o.pattern, imported) {
			continue
		}
		if among(o.in, s.room) || s.isTest() && among(o.inTests, s.room) {
			return "" // the first pattern that fits decides
		}
		return o.why
	}
	return ""
}

// fileFaults finds the calls and mentions of fileActs.
func fileFaults(s source) []string {
	imports := map[string]string{} // name in this file -> package
	for _, spec := range s.syntax.Imports {
		imported, _ := strconv.Unquote(spec.Path.Value)
		name := path.Base(imported)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		imports[name] = imported
	}
	harmless := map[ast.Node]bool{}
	var found []string
	ast.Inspect(s.syntax, func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.CallExpr:
			if opens(node.Fun) && !creates(node.Args) {
				harmless[node.Fun] = true
			}
		case *ast.SelectorExpr:
			name, _ := node.X.(*ast.Ident)
			if name == nil || harmless[node] || !slices.Contains(fileActs[imports[name.Name]], node.Sel.Name) {
				return true
			}
			act := path.Base(imports[name.Name]) + "." + node.Sel.Name
			if !excepted(s.room, act) {
				found = append(found, fmt.Sprintf("%s does %s: %s", s.set.Position(node.Pos()), act, durableOnly))
			}
		}
		return true
	})
	return found
}

func opens(fun ast.Expr) bool {
	called, ok := fun.(*ast.SelectorExpr)
	return ok && slices.Contains([]string{"OpenFile", "Open", "Openat"}, called.Sel.Name)
}

// creates reports whether one of the flags among args makes or empties a file.
func creates(args []ast.Expr) (found bool) {
	for _, arg := range args {
		ast.Inspect(arg, func(node ast.Node) bool {
			name, ok := node.(*ast.Ident)
			found = found || ok && slices.Contains(creatingFlags, name.Name)
			return true
		})
	}
	return found
}

func excepted(room, act string) bool {
	for _, e := range fileExceptions {
		if fits(e.pattern, room) && (e.acts == nil || slices.Contains(e.acts, act)) {
			return true
		}
	}
	return false
}

// roomOf returns the first entry that fits, which is a package's own if it has one.
func roomOf(name string) (room, bool) {
	i := slices.IndexFunc(rooms, func(r room) bool { return fits(r.pattern, name) })
	if i < 0 {
		return room{}, false
	}
	return rooms[i], true
}

func among(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return fits(pattern, name) })
}

func fits(pattern, name string) bool {
	if pattern == "..." {
		return true
	}
	if tree, ok := strings.CutSuffix(pattern, "/..."); ok {
		return name == tree || strings.HasPrefix(name, tree+"/")
	}
	return name == pattern
}

func stderr(err error) string {
	if exit, ok := err.(*exec.ExitError); ok {
		return string(exit.Stderr)
	}
	return ""
}
