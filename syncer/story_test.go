package syncer

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"certswarm/internal/fleet"
	"certswarm/syncer/index"
	"certswarm/syncer/wire"
)

// TestStories plays every testdata/*.txt: commands, a line of dashes, and what is to be seen then. UPDATE_STORIES=1 writes down what is
// seen instead; read it before you believe it. See world.do for the commands.
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { playStory(t, file) })
	}
}

func playStory(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(text, []byte("# ")) {
		t.Errorf("%s has no title", file)
	}
	w := newWorld()
	var told strings.Builder
	for _, block := range strings.Split(strings.TrimSpace(string(text)), "\n\n") {
		commands, _, shown := strings.Cut(block+"\n", "----\n")
		fmt.Fprint(&told, commands)
		for line := range strings.Lines(commands) {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				w.do(words(line))
			}
		}
		if seen := w.out.String(); shown || seen != "" {
			fmt.Fprintf(&told, "----\n%s", cmp.Or(seen, "nothing\n"))
		}
		fmt.Fprintln(&told)
		w.out.Reset()
	}
	got := strings.TrimSpace(told.String()) + "\n"
	if got == string(text) {
		return
	}
	if os.Getenv("UPDATE_STORIES") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	was, is := strings.Split(string(text), "\n"), strings.Split(got, "\n")
	for i := range min(len(was), len(is)) {
		if was[i] != is[i] {
			t.Fatalf("%s:%d: it went another way\n  told: %s\n  seen: %s\n\nthe whole story as it went:\n%s", file, i+1, was[i], is[i], got)
		}
	}
	t.Fatalf("%s: it went another way:\n%s", file, got)
}

// words splits a line at its spaces; what stands in quotes is one word.
func words(line string) []string {
	var out []string
	for line = strings.TrimLeft(line, " "); line != ""; line = strings.TrimLeft(line, " ") {
		if quoted, err := strconv.QuotedPrefix(line); err == nil {
			text, _ := strconv.Unquote(quoted)
			out, line = append(out, text), line[len(quoted):]
			continue
		}
		word, rest, _ := strings.Cut(line, " ")
		out, line = append(out, word), rest
	}
	return out
}

// world is a few replicas without disks, stores or network: all of these are maps.
type world struct {
	now          time.Time
	machines     []*machine
	texts        map[index.Digest]string
	fingerprints bool
	maxDelete    int // per cent
	out          strings.Builder
}

func newWorld(names ...string) *world {
	w := &world{now: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC), texts: map[index.Digest]string{}, maxDelete: 50}
	w.do(append([]string{"nodes"}, names...))
	return w
}

// machine is a node: what survives a restart, and the replica that does not.
type machine struct {
	*world
	name  string
	key   ed25519.PrivateKey
	skew  time.Duration // of its clock
	disk  map[index.Path]index.Found
	links map[*machine]bool

	hidden  map[index.Path]index.Found // the disk while it is not there
	nowhere map[string]bool            // texts that it cannot fetch

	writers     []string // nil: any
	dear        map[index.Path]bool
	fresh       bool // never started, or not since it lost its state
	incarnation uint64
	entries     map[index.Path]*index.Entry
	held        index.Summary
	keys        map[fleet.NodeID]ed25519.PublicKey
	ceiling     uint64
	forgotten   index.Summary
	doubt       doubt
	backup      *machine

	r *replica
}

// storyBlock is how many numbers are reserved at a time.
const storyBlock = 10_000

func (w *world) say(format string, args ...any) { fmt.Fprintf(&w.out, format+"\n", args...) }

func (w *world) find(name string) *machine {
	for _, m := range w.machines {
		if m.name == name {
			return m
		}
	}
	return nil
}

func (m *machine) id() fleet.NodeID { return fleet.IDOf(m.key.Public().(ed25519.PublicKey)) }

func (m *machine) clock() time.Time { return m.now.Add(m.skew) }

func (w *world) nameOf(id fleet.NodeID) string {
	for _, m := range w.machines {
		if m.id() == id {
			return m.name
		}
	}
	return "somebody"
}

func (w *world) members() []fleet.NodeID {
	var out []fleet.NodeID
	for _, m := range w.machines {
		out = append(out, m.id())
	}
	return out
}

func (w *world) content(text string) index.File {
	f := index.File{Digest: sha256.Sum256([]byte(text)), Size: int64(len(text)), Perm: 0o600}
	w.texts[f.Digest] = text
	return f
}

func (w *world) textOf(c index.Content) string {
	switch c := c.(type) {
	case index.File:
		return strconv.Quote(w.texts[c.Digest])
	case index.Tombstone:
		return "deleted"
	}
	return fmt.Sprintf("%T", c)
}

func (w *world) plain(c index.Content) string {
	f, _ := c.(index.File)
	return w.texts[f.Digest]
}

// start begins or begins again from what was saved.
func (m *machine) start() {
	if m.fresh {
		m.incarnation++
		m.ceiling, m.held, m.forgotten = 0, index.Summary{}, index.Summary{}
		m.entries, m.keys = map[index.Path]*index.Entry{}, map[fleet.NodeID]ed25519.PublicKey{}
	}
	m.r = newReplica(rules{
		self: index.Origin{Node: m.id(), Incarnation: m.incarnation}, key: m.key.Public().(ed25519.PublicKey),
		sign:    func(message []byte) []byte { return ed25519.Sign(m.key, message) },
		scope:   wire.Scope{Cluster: "edge", Directory: "certs"},
		members: m.members, nameOf: m.nameOf,
		mayWrite: func(id fleet.NodeID) bool { return m.writers == nil || slices.Contains(m.writers, m.nameOf(id)) },
		mayLease: func(fleet.NodeID) bool { return true },
		reserved: func(index.Path) bool { return false },
		precious: func(p index.Path) bool { return m.dear[p] },
		same:     func(known, found index.Content) bool { return known == found },
		maxFile:  1 << 20, maxDelete: m.maxDelete,
	})
	m.r.fresh, m.r.seq = m.fresh, m.ceiling
	m.fresh = false
	m.ceiling += storyBlock
	m.r.ceiling = m.ceiling
	for _, e := range m.entries {
		m.r.x.Merge(e)
		m.r.clock = max(m.r.clock, e.Stamp.HLC)
	}
	for o, seq := range m.held {
		m.r.x.Hold(o, seq)
	}
	m.r.begun, m.r.forgotten, m.r.doubt = m.r.seq, m.forgotten.Clone(), m.doubt
	maps.Copy(m.r.keys, m.keys)
	m.r.durable = m.r.x.Held().Clone()
	m.authoring(func() { m.r.observe(m.clock(), m.scan()) })
	m.r.seeded = true
	m.save()
}

func (m *machine) stop() {
	for other := range m.links {
		m.cut(other)
	}
	m.r = nil
}

func (m *machine) cut(other *machine) {
	for _, end := range [][2]*machine{{m, other}, {other, m}} {
		delete(end[0].links, end[1])
		end[0].r.part(end[1].id())
	}
}

// meet connects two machines; each hears the other's Hello.
func (m *machine) meet(other *machine, aloud bool) { m.greet(other, aloud, func() {}) }

// greet is meet with something that happens while the greetings are under way.
func (m *machine) greet(other *machine, aloud bool, meanwhile func()) {
	greetings := map[*machine]wire.Greeting{}
	for _, end := range []*machine{m, other} {
		greetings[end] = end.r.greeting()
	}
	meanwhile()
	for _, end := range [][2]*machine{{m, other}, {other, m}} {
		from, to := end[0], end[1]
		from.links[to] = true
		if aloud {
			m.say("%s -> %s: hello%s%s", from.name, to.name, m.summary(", holds", greetings[from].Held), m.fingerprint(greetings[from].Fingerprint))
		}
		to.r.hello(to.clock(), from.id(), from.clock(), greetings[from], greetings[to].Held)
	}
	for _, end := range []*machine{m, other} {
		if end.r.outdated != nil {
			end.beginAnew()
		}
	}
}

// beginAnew is Directory.rejoin, and the start that follows.
func (m *machine) beginAnew() {
	doubted := m.r.inDoubt(*m.r.outdated)
	slices.SortFunc(doubted, func(a, b *index.Entry) int { return cmp.Compare(a.Path.String(), b.Path.String()) })
	m.say("%s begins anew; in doubt: %s", m.name, m.describe(doubted))
	m.doubt = doubt{content: map[index.Path]index.Content{}, until: m.r.outdated.until}
	for _, e := range doubted {
		m.doubt.content[e.Path] = e.Content
	}
	met := slices.Collect(maps.Keys(m.links))
	m.stop()
	m.fresh = true
	m.start()
	for _, other := range met {
		m.meet(other, false)
	}
}

func (m *machine) scan() index.Scan { return index.Scan{Found: m.disk, Listed: []index.Path{{}}} }

// save is takeDirty, the store, and persisted.
func (m *machine) save() {
	u := m.r.takeDirty()
	for _, e := range u.Put {
		m.entries[e.Path] = e
	}
	for _, p := range u.Remove {
		delete(m.entries, p)
	}
	if u.Held != nil {
		m.held, m.forgotten = u.Held, u.Forgotten
	}
	if u.Doubtless {
		m.doubt = doubt{}
	}
	maps.Copy(m.keys, m.r.keys)
	m.r.persisted(m.clock(), u)
}

// authoring does something and says what this node wrote by it, or why it did not.
func (m *machine) authoring(do func()) {
	before, halted := m.r.seq, m.r.halt
	do()
	m.list("%s writes ", m.r.x.Since(m.r.self, before, m.r.seq))
	if m.r.halt != halted && m.r.halt != "" {
		m.say("%s halts: %s", m.name, m.r.halt)
	}
}

func (m *machine) list(format string, entries []*index.Entry) {
	if len(entries) > 0 {
		m.say(format+"%s", m.name, m.describe(entries))
	}
}

// describe says what entries are, a few of them in full.
func (w *world) describe(entries []*index.Entry) string {
	if len(entries) <= 4 {
		var out []string
		for _, e := range entries {
			text := fmt.Sprintf("%s:%d %s %s", w.nameOf(e.Origin.Node), e.Seq, e.Path, w.textOf(e.Content))
			if !e.Stamp.Written {
				text += " (found)"
			}
			if e.Expires != 0 {
				text += " until " + time.UnixMilli(e.Expires).UTC().Format("15:04:05")
			}
			out = append(out, text)
		}
		return strings.Join(out, ", ")
	}
	var batches []string
	size := 0
	for i, e := range entries {
		size++
		if i+1 == len(entries) || entries[i+1].Batch != e.Batch {
			batches = append(batches, fmt.Sprintf("%d up to %s", size, e.Path))
			size = 0
		}
	}
	return fmt.Sprintf("%d entries in batches of %s", len(entries), strings.Join(batches, ", "))
}

func (w *world) summary(word string, s index.Summary) string {
	var out []string
	for _, m := range w.machines {
		for _, o := range s.Origins() {
			if o.Node == m.id() && s[o] > 0 {
				out = append(out, fmt.Sprintf(" %s%s:%d", m.name, strings.Repeat("'", int(o.Incarnation)-1), s[o]))
			}
		}
	}
	if len(out) == 0 {
		return ""
	}
	return word + strings.Join(out, "")
}

func (w *world) fingerprint(f index.Fingerprint) string {
	if !w.fingerprints || f == (index.Fingerprint{}) {
		return ""
	}
	return fmt.Sprintf(", fingerprint %x", f[:2])
}

// speak delivers what from has to say to to, or loses it.
func (w *world) speak(from, to *machine, lost, aloud bool) (spoke bool) {
	for from.links[to] {
		frame := from.r.next(from.clock(), to.id())
		if frame == nil {
			break
		}
		spoke = true
		text := ""
		switch f := frame.(type) {
		case wire.Offer:
			frame = w.inline(f)
			text = fmt.Sprintf("offer %s:%d..%d", w.nameOf(f.Origin.Node), f.After, f.Through)
			if f.Through == 0 {
				text = "repair"
			}
			if len(f.Entries) > 0 {
				text += ": " + w.describe(f.Entries)
			}
		case wire.Have:
			text = "have" + w.summary("", f.Held) + w.fingerprint(f.Fingerprint)
			if f.Again {
				text += ", again please"
			}
			for _, refusal := range f.Refused {
				text += fmt.Sprintf(", but not %s:%d %s: %s", w.nameOf(refusal.Origin.Node), refusal.Seq, refusal.Path, refusal.Reason)
			}
		}
		if aloud {
			w.say("%s -> %s: %s%s", from.name, to.name, text, map[bool]string{true: " (lost)"}[lost])
		}
		if lost {
			continue
		}
		w.deliver(from, to, frame)
	}
	return spoke
}

// inline adds the content to an offer.
func (w *world) inline(o wire.Offer) wire.Offer {
	o.Inline = map[index.Digest][]byte{}
	for _, e := range o.Entries {
		if f, file := e.Content.(index.File); file {
			o.Inline[f.Digest] = []byte(w.texts[f.Digest])
		}
	}
	return o
}

// deliver has a frame read and believed as a connection does.
func (w *world) deliver(from, to *machine, frame wire.Frame) {
	b := wire.Encode(frame)
	read, err := wire.Decode(b[4], b[wire.HeaderSize:])
	if o, ok := read.(wire.Offer); err == nil && ok {
		err = to.r.scope.Verify(o.Origin.Node, o.Key, o.Entries)
	}
	if err != nil {
		w.say("%s hangs up on %s: %v", to.name, from.name, err)
		from.cut(to)
		return
	}
	switch f := read.(type) {
	case wire.Offer:
		to.r.receive(to.clock(), from.id(), f)
	case wire.Have:
		to.r.have(to.clock(), from.id(), f)
	}
}

// apply takes all jobs to the disk, and saves.
func (m *machine) apply(aloud bool) (worked bool) {
	verbs := map[index.Action]string{index.Note: "notes", index.Delete: "deletes", index.PutFile: "puts", index.SetMode: "changes the mode of"}
	for j := m.r.work(m.clock()); j != nil; j = m.r.work(m.clock()) {
		worked = true
		var done []*index.Entry
		plan := m.r.plan(j)
		if i := slices.IndexFunc(plan, func(s index.Step) bool { return s.Action == index.PutFile && m.nowhere[m.plain(s.Entry.Content)] }); i >= 0 {
			m.r.abandon(m.clock(), j, plan[i].Entry)
			continue
		}
		for _, step := range plan {
			e := step.Entry
			switch {
			case step.Action == index.Delete:
				delete(m.disk, e.Path)
			case !e.Deleted():
				m.disk[e.Path] = index.Found{Content: e.Content, Modified: m.clock(), Changed: m.clock()}
			}
			if !j.isRevert() {
				m.r.land(e)
			}
			done = append(done, e)
			if aloud && len(plan) <= 4 {
				what := " " + m.textOf(e.Content)
				if e.Deleted() {
					what = ""
				}
				m.say("%s %s %s%s", m.name, verbs[step.Action], e.Path, what)
			}
		}
		if aloud && len(plan) > 4 {
			m.say("%s puts %d files", m.name, len(plan))
		}
		m.r.finish(m.clock(), j, done, false)
	}
	m.save()
	return worked
}

// settle lets everything happen that will, within some seconds.
func (w *world) settle() {
	for end := w.now.Add(3 * time.Second); w.now.Before(end); w.now = w.now.Add(100 * time.Millisecond) {
		for busy := true; busy; {
			busy = false
			for _, from := range w.machines {
				for _, to := range w.machines {
					busy = w.speak(from, to, false, false) || busy
				}
				if from.r != nil {
					busy = from.apply(false) || busy
				}
			}
		}
	}
}
