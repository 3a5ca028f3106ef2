package real_test

import (
	"os"
	"strings"
	"testing"

	"certswarm/internal/control"
	"certswarm/testnet/real"
)

// Who may write is decided by the receivers, by who signed it. What others write on their own disk is put back, kept and
// reported; it reaches nobody.
func TestAuthority(t *testing.T) {
	t.Parallel()
	for _, kind := range []struct {
		name   string
		config real.Config
	}{
		{"not among the writers", real.Config{Directory: []string{"writers: [fe1]"}}},
		{"a member among issuers", real.Config{Directory: []string{"writers: [issuers]"}, Roles: map[string]string{"fe2": "member", "fe3": "member"}}},
		{"a member where anybody may write", real.Config{Roles: map[string]string{"fe2": "member", "fe3": "member"}}},
	} {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			kind.config.Addresses = addresses(3)
			w := start(t, kind.config)
			w.await(real.Synced)
			scene(t, w, "an edit", editReverted)
			scene(t, w, "a deletion", deletionReverted)
			scene(t, w, "a new file", newFileReverted)
			scene(t, w, "while the agent was down", editedWhileDown)
			scene(t, w, "in the end all hold the same", func(w *world) {
				w.await(real.Synced)
				w.alike(w.Nodes...)
			})
		})
	}
}

func editReverted(w *world) {
	writer, reader, third := w.Nodes[0], w.Nodes[1], w.Nodes[2]
	w.put(writer, "owned", "by the writer")
	w.arrives("owned", "by the writer", reader, third)
	w.put(reader, "owned", "an edit")
	w.await(reports(control.EditReverted, reader, "owned"))
	w.arrives("owned", "by the writer", reader)
	w.keeps(reader, "owned", "an edit")
	w.witness(writer, reader, third)
	for _, n := range w.Nodes {
		w.has(n, "owned", "by the writer")
	}
	if versions := append(archived(writer, "owned"), archived(third, "owned")...); len(versions) > 0 {
		w.t.Errorf("the edit had come to others: %q", versions)
	}
}

func deletionReverted(w *world) {
	writer, reader, third := w.Nodes[0], w.Nodes[1], w.Nodes[2]
	w.put(writer, "needed/file", "by the writer")
	w.arrives("needed/file", "by the writer", reader, third)
	_ = os.RemoveAll(in(reader, "needed")) // the agent may put things back faster than they can be removed
	w.arrives("needed/file", "by the writer", reader)
	w.await(reports(control.EditReverted, reader, "needed"))
	w.has(third, "needed/file", "by the writer")
}

func newFileReverted(w *world) {
	writer, reader, third := w.Nodes[0], w.Nodes[1], w.Nodes[2]
	w.put(reader, "uninvited", "new")
	w.leaves("uninvited", reader)
	w.keeps(reader, "uninvited", "new")
	w.await(reports(control.EditReverted, reader, "uninvited"))
	w.witness(writer, reader, third)
	w.never("uninvited", w.Nodes...)
}

// What is done behind the agent's back makes no difference, and neither does who passes on what was written.
func editedWhileDown(w *world) {
	writer, reader, third := w.Nodes[0], w.Nodes[1], w.Nodes[2]
	w.put(writer, "behind", "by the writer")
	w.arrives("behind", "by the writer", reader, third)
	w.synced(writer)
	w.must(reader.Stop())
	w.put(reader, "behind", "an edit")
	w.must(writer.Stop())
	w.must(reader.Start(w.ctx))
	w.awaitOn(connected(reader, third), reader, third)
	w.arrives("behind", "by the writer", reader)
	w.keeps(reader, "behind", "an edit")
	w.has(third, "behind", "by the writer")
	w.must(writer.Start(w.ctx))
	w.await(connected(w.Nodes...))
}

// A writer's file reaches a node that never hears the writer, by way of one that may not write itself.
func TestRelayedByAMember(t *testing.T) {
	t.Parallel()
	w := start(t, real.Config{Addresses: addresses(3), Relayed: true, Roles: map[string]string{"fe2": "member", "fe3": "member"}})
	w.await(real.Synced)
	writer, between, far := w.Nodes[0], w.Nodes[1], w.Nodes[2]
	w.Relay.Cut(writer, far)
	w.Relay.Cut(far, writer)
	w.put(writer, "far", "signed by the writer")
	w.arrives("far", "signed by the writer", between, far)
	w.must(os.Remove(in(writer, "far")))
	w.leaves("far", w.Nodes...)
	w.put(between, "forged", "by one that may not write")
	w.leaves("forged", between)
	w.witness(writer, between, far)
	w.never("forged", w.Nodes...)
}

// A node's own configuration says that it may write; the others' say that it may not. They believe what is signed and their own
// list, whoever passes it on, and the node hears who does not take what.
func TestPretender(t *testing.T) {
	t.Parallel()
	w := start(t, real.Config{Addresses: addresses(3), Relayed: true, Directory: []string{"writers: [fe1, fe2]"}})
	w.await(real.Synced)
	writer, between, pretender := w.Nodes[0], w.Nodes[1], w.Nodes[2]
	w.put(writer, "owned", "by a writer")
	w.arrives("owned", "by a writer", w.Nodes...)
	w.synced(writer)
	text, err := os.ReadFile(pretender.ConfigFile)
	w.must(err)
	w.must(os.WriteFile(pretender.ConfigFile, []byte(strings.Replace(string(text), "writers: [fe1, fe2]", "writers: [any]", 1)), 0o644))
	w.must(pretender.Stop())
	w.must(pretender.Start(w.ctx))
	w.await(connected(w.Nodes...))
	w.Relay.Cut(pretender, writer) // what reaches the writer from there has been passed on
	w.Relay.Cut(writer, pretender)

	w.put(pretender, "owned", "by a pretender")
	w.put(pretender, "forged", "by a pretender")
	w.await(among(w.Nodes[1:], reports(control.EntryRefused, pretender, "owned")))
	w.await(among(w.Nodes[1:], reports(control.EntryRefused, pretender, "forged")))
	w.witness(between, writer, pretender)
	for _, n := range []*real.Node{writer, between} {
		w.has(n, "owned", "by a writer")
		w.never("forged", n)
		if versions := archived(n, "owned"); len(versions) > 0 {
			t.Errorf("%s had taken the edit: it replaced %q", n.Name, versions)
		}
	}
	w.put(writer, "owned", "by a writer, again")
	w.arrives("owned", "by a writer, again", w.Nodes...)
}
