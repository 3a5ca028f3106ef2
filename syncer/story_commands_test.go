package syncer

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"certswarm/internal/fleet"
	"certswarm/syncer/index"
	"certswarm/syncer/wire"
)

// do carries out one command of a story. A machine's command begins with its name.
func (w *world) do(line []string) {
	switch {
	case line[0] == "nodes": // they exist, but do not run
		for i, name := range line[1:] {
			seed := bytes.Repeat([]byte{byte(i + 1)}, ed25519.SeedSize)
			w.machines = append(w.machines, &machine{
				world: w, name: name, key: ed25519.NewKeyFromSeed(seed), fresh: true,
				disk: map[index.Path]index.Found{}, links: map[*machine]bool{},
			})
		}
	case line[0] == "fingerprints": // are shown from here on
		w.fingerprints = true
	case line[0] == "start": // and meet all that run
		for _, name := range line[1:] {
			m := w.find(name)
			m.start()
			for _, other := range w.machines {
				if other != m && other.r != nil {
					m.meet(other, false)
				}
			}
		}
	case line[0] == "settle":
		w.settle()
	case line[0] == "cut":
		w.find(line[1]).cut(w.find(line[2]))
	case line[0] == "join":
		w.find(line[1]).meet(w.find(line[2]), true)
	case line[0] == "time":
		d, err := time.ParseDuration(line[1])
		if err != nil {
			panic(err)
		}
		w.now = w.now.Add(d)
		for _, m := range w.machines {
			if m.r != nil {
				m.tick()
			}
		}
	case line[0] == "status":
		for _, name := range line[1:] {
			w.find(name).status()
		}
	case line[1] == "->":
		w.speak(w.find(line[0]), w.find(line[2]), len(line) > 3 && line[3] == "lost", true)
	default:
		w.find(line[0]).do(line[1], line[2:])
	}
}

func (m *machine) do(verb string, args []string) {
	switch verb {
	case "has": // a file, for that long already, before it was ever started
		m.put(args[0], args[1])
		p := index.MustPath(args[0])
		old := m.disk[p]
		if age, err := time.ParseDuration(args[3]); err == nil {
			old.Modified = m.clock().Add(-age)
		}
		m.disk[p] = old
	case "writes":
		m.edit(args, true)
	case "writes-unsaved": // the disk has it, the state database not yet
		m.edit(args, false)
	case "fills": // directories with as many files each
		n, err := strconv.Atoi(args[0])
		if err != nil {
			panic(err)
		}
		scan := index.Scan{Found: map[index.Path]index.Found{}}
		for _, dir := range args[1:] {
			for i := range n {
				name := fmt.Sprintf("%s/%04d", dir, i)
				m.put(name, name)
				p := index.MustPath(name)
				scan.Found[p] = m.disk[p]
			}
		}
		m.observe(scan, true)
	case "deletes":
		var looked []index.Path
		for _, name := range args {
			p := index.MustPath(name)
			delete(m.disk, p)
			looked = append(looked, p)
		}
		m.observe(index.Scan{Looked: looked}, true)
	case "moves":
		from, to := index.MustPath(args[0]), index.MustPath(args[1])
		m.disk[to] = m.disk[from]
		delete(m.disk, from)
		m.observe(index.Scan{Looked: []index.Path{from, to}, Found: map[index.Path]index.Found{to: m.disk[to]}}, true)
	case "publishes": // a file that lives for that long
		life, err := time.ParseDuration(args[3])
		if err != nil {
			panic(err)
		}
		m.put(args[0], args[1])
		m.authoring(func() {
			e := &index.Entry{
				Path: index.MustPath(args[0]), Origin: m.r.self, Content: m.content(args[1]), Expires: m.clock().Add(life).UnixMilli(),
				Stamp: index.Stamp{Written: true, HLC: m.r.tickClock(m.clock()), Node: m.r.self.Node},
			}
			m.r.number([]*index.Entry{e})
			m.r.adopt([]*index.Entry{e})
		})
		m.save()
	case "issues": // files, under the lease
		for i := 0; i < len(args); i += 2 {
			m.put(args[i], args[i+1])
			m.authoring(func() {
				e := &index.Entry{Path: index.MustPath(args[i]), Origin: m.r.self, Content: m.content(args[i+1]), Stamp: index.Stamp{
					Written: true, Epoch: fleet.Epoch{Generation: 1, Term: 1}, HLC: m.r.tickClock(m.clock()), Node: m.r.self.Node,
				}}
				m.r.number([]*index.Entry{e})
				m.r.adopt([]*index.Entry{e})
			})
		}
		m.save()
	case "applies":
		m.apply(true)
	case "restarts": // perhaps without files that were not on the disk yet
		m.stop()
		for _, name := range args {
			delete(m.disk, index.MustPath(name))
		}
		m.start()
	case "is-backed-up": // state and disk
		m.backup = &machine{
			entries: maps.Clone(m.entries), held: m.held.Clone(), keys: maps.Clone(m.keys), ceiling: m.ceiling, disk: maps.Clone(m.disk),
		}
	case "is-restored": // from that, and starts
		m.stop()
		b := m.backup
		m.entries, m.held, m.keys, m.ceiling, m.disk = b.entries, b.held, b.keys, b.ceiling, b.disk
		m.start()
	case "forgets-everything": // its state, not its disk
		m.stop()
		m.fresh = true
	case "loses": // an entry, from its index, without knowing
		p := index.MustPath(args[0])
		m.r.x.Remove(p)
		delete(m.disk, p)
		delete(m.entries, p)
	case "forges": // another version of what somebody else wrote
		p := index.MustPath(args[0])
		forged := *m.r.x.Live(p)
		forged.Content = m.content(args[1])
		forged.Stamp.HLC++
		m.r.scope.Rehash(&forged)
		m.r.x.Merge(&forged)
	case "claims": // to hold numbers, towards everybody
		for other := range m.links {
			m.deliver(m, other, wire.Have{Directory: "certs", Held: m.numbers(args)})
		}
	case "vouches": // origin through to somebody
		for o, through := range m.numbers([]string{args[0] + ":" + args[1]}) {
			m.deliver(m, m.find(args[3]), wire.Offer{Directory: "certs", Origin: o, Key: m.find(args[0]).r.key, Through: through})
		}
	case "holds-dear": // these, by its own configuration
		m.dear = map[index.Path]bool{}
		for _, name := range args {
			m.dear[index.MustPath(name)] = true
		}
	case "takes-at-most": // so many bytes of a file
		n, err := strconv.ParseInt(args[0], 10, 64)
		if err != nil {
			panic(err)
		}
		m.r.maxFile = n
	case "loses-its-directory": // it is unmounted, say
		m.r.away, m.hidden, m.disk = true, m.disk, map[index.Path]index.Found{}
		m.r.stop(m.clock(), "the directory is gone")
	case "has-its-directory-back": // as it was, but for these, which were removed meanwhile
		m.disk = m.hidden
		for _, name := range args {
			delete(m.disk, index.MustPath(name))
		}
		m.r.away, m.r.halt = false, ""
		m.authoring(func() { m.r.asAtStart(func() { m.r.observe(m.clock(), m.scan()) }) })
		m.save()
	case "cannot-fetch": // these from anybody
		m.nowhere = map[string]bool{}
		for _, text := range args {
			m.nowhere[text] = true
		}
	case "believes-only": // what these write
		m.writers = args
	case "clock":
		d, err := time.ParseDuration(args[0])
		if err != nil {
			panic(err)
		}
		m.skew = d
	case "resumes":
		m.authoring(func() { m.r.resume(m.clock(), m.scan(), args[0] == "accepting") })
		m.save()
	default:
		panic("no such command: " + verb)
	}
}

// numbers reads a summary: fe1:7 fe2:3.
func (w *world) numbers(texts []string) index.Summary {
	s := index.Summary{}
	for _, text := range texts {
		name, number, _ := strings.Cut(text, ":")
		seq, err := strconv.ParseUint(number, 10, 64)
		if err != nil {
			panic(err)
		}
		s[w.find(name).r.self] = seq
	}
	return s
}

func (m *machine) put(name, text string) {
	m.disk[index.MustPath(name)] = index.Found{Content: m.content(text), Modified: m.clock(), Changed: m.clock()}
}

func (m *machine) edit(args []string, save bool) {
	scan := index.Scan{Found: map[index.Path]index.Found{}}
	for i := 0; i < len(args); i += 2 {
		m.put(args[i], args[i+1])
		p := index.MustPath(args[i])
		scan.Found[p] = m.disk[p]
	}
	m.observe(scan, save)
}

func (m *machine) observe(scan index.Scan, save bool) {
	m.authoring(func() { m.r.observe(m.clock(), scan) })
	if save {
		m.save()
	}
}

func (m *machine) tick() {
	var expired []*index.Entry
	m.authoring(func() { expired = m.r.tick(m.clock()) })
	for _, e := range expired {
		delete(m.disk, e.Path)
		m.say("%s: %s has expired", m.name, e.Path)
	}
	m.save()
}

// status says what an operator would see, and the files.
func (m *machine) status() {
	var files []string
	for p, found := range m.disk {
		files = append(files, p.String()+" "+m.textOf(found.Content))
	}
	slices.Sort(files)
	if len(files) == 0 {
		files = []string{"nothing"}
	}
	if len(files) > 4 {
		files = []string{fmt.Sprintf("%d files", len(files))}
	}
	line := fmt.Sprintf("%s is %s: %s", m.name, m.r.state(), strings.Join(files, ", "))
	if n := m.r.x.Tombstones(); n > 0 {
		line += fmt.Sprintf(", %d tombstones", n)
	}
	m.say("%s", line)
	if m.r.halt != "" {
		m.say("  halted: %s", m.r.halt)
	}
	for _, other := range m.machines {
		if v := m.r.peers[other.id()]; v != nil {
			if lacks := m.r.x.Lacking(v.acked); len(lacks) > 0 {
				m.say("  %s lacks %s", other.name, m.describe(lacks))
			}
		}
		m.r.dropRefusals()
		for _, refusal := range m.r.refusedBy[other.id()] {
			m.say("  %s does not take %s: %s", other.name, refusal.Path, refusal.Reason)
		}
		if wrong, is := m.r.skews[other.id()]; is {
			m.say("  the clock of %s is off by %s%s", other.name, wrong.ahead, map[bool]string{false: ", or this one's"}[wrong.certain])
		}
	}
	for p := range m.r.lost {
		m.say("  nobody has %s", p)
	}
	var reverted []string
	for p := range m.r.reverted {
		reverted = append(reverted, p.String())
	}
	if slices.Sort(reverted); len(reverted) > 0 {
		m.say("  put back: %s", strings.Join(reverted, ", "))
	}
}
