package testnet_test

import (
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"certswarm/internal/fleet"
	"certswarm/syncer"
	"certswarm/syncer/index"
)

// put brings a file by a rename from outside, so that nobody is told of a draft of it.
func (s *stage) put(file, content string) {
	s.t.Helper()
	if err := os.WriteFile(s.Path(0, "../draft"), []byte(content), 0o644); err != nil {
		s.t.Fatal(err)
	}
	s.Mkdir(0, path.Dir(file))
	s.Rename(0, "../draft", file)
}

func (s *stage) putPair(dir string, p pair) {
	s.put(dir+"privkey.pem", p.key)
	s.put(dir+"fullchain.pem", p.chain)
}

// putGeneration writes a generation as an ACME client does that keeps a directory for each.
func (s *stage) putGeneration(n int) {
	s.putPair(fmt.Sprintf("archive/site/%d/", n), s.script.pairs[n-1])
	s.Symlink(0, fmt.Sprintf("../archive/site/%d", n), "live/site")
}

// putLinks does it as certbot does: numbered files, and links to them one by one.
func (s *stage) putLinks(n int) {
	p := s.script.pairs[n-1]
	s.Mkdir(0, "live/site")
	for file, text := range map[string]string{"privkey": p.key, "fullchain": p.chain} {
		s.put(fmt.Sprintf("archive/site/%s%d.pem", file, n), text)
	}
	for _, file := range []string{"privkey", "fullchain"} {
		s.Symlink(0, fmt.Sprintf("../../archive/site/%s%d.pem", file, n), "live/site/"+file+".pem")
	}
}

// publish has the program publish until it succeeds or is killed.
func (s *stage) publish(writes ...syncer.Write) {
	s.t.Helper()
	for range 6 {
		_, err := s.Directory(0).Publish(fleet.Epoch{}, writes...)
		if s.Dead(0) {
			return
		}
		if err == nil {
			s.written = true
			return
		}
		s.wholeAtRest("after "+err.Error(), "", s.Tree(0), false)
		s.Advance(6 * time.Second)
	}
	s.t.Error("nothing can be published")
}

// moveTreeIn renames a tree of enough files for bulk into the directory.
func (s *stage) moveTreeIn() {
	for i := range 40 {
		dir := s.Path(0, fmt.Sprintf("../aside/%d", i%5))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			s.t.Fatal(err)
		}
		if err := os.WriteFile(fmt.Sprintf("%s/%d", dir, i), []byte(strings.Repeat("x", i)), 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
	s.Rename(0, "../aside", "tree/new")
}

// publishChallenge publishes two tokens that the fleet has for a minute.
func (s *stage) publishChallenge() {
	s.expiry = time.Now().Add(time.Minute)
	var writes []syncer.Write
	for _, token := range []string{"one", "two"} {
		writes = append(writes, syncer.Write{
			Path: index.MustPath("acme/.well-known/acme-challenge/" + token), Data: []byte(token), Perm: 0o644, Expires: s.expiry,
		})
	}
	s.publish(writes...)
}

var trials = []trial{
	{
		name:   "one file",
		before: func(s *stage) { s.put("dir/file", "old") },
		change: func(s *stage) { s.put("dir/file", "new") },
		kept:   []string{"dir/file"},
	},
	{
		name:   "a pair in place",
		before: func(s *stage) { s.putPair("site/", s.script.pairs[0]) },
		change: func(s *stage) { s.putPair("site/", s.script.pairs[1]) },
		whole:  []string{"site"},
		kept:   []string{"site/privkey.pem", "site/fullchain.pem"},
	},
	{
		name:   "two pairs in place on a slow disk",
		before: func(s *stage) { s.putPair("site/", s.script.pairs[0]) },
		change: func(s *stage) {
			s.putPair("site/", s.script.passing)
			s.Advance(5 * time.Millisecond) // the state is saved between the renames of the second and their sync
			s.putPair("site/", s.script.pairs[1])
		},
		slow: true,
	},
	{
		name:   "a generation",
		before: func(s *stage) { s.Mkdir(0, "live"); s.putGeneration(1) },
		change: func(s *stage) { s.putGeneration(2) },
		whole:  []string{"archive/site/2/"},
		link:   "live/site",
	},
	{
		name:   "links one by one",
		before: func(s *stage) { s.putLinks(1) },
		change: func(s *stage) { s.putLinks(2) },
		whole:  []string{"live/site"},
	},
	{
		name:   "a tree moved in",
		before: func(s *stage) { s.put("tree/old", "x") },
		change: (*stage).moveTreeIn,
		whole:  []string{"tree/new"},
	},
	{
		name:   "a tree moved in on a slow disk",
		before: func(s *stage) { s.put("tree/old", "x") },
		change: (*stage).moveTreeIn,
		whole:  []string{"tree/new"},
		slow:   true,
	},
	{
		name:    "a challenge",
		before:  func(*stage) {},
		publish: (*stage).publishChallenge,
		passes:  []string{""}, // a power cut may leave it so
		expires: true,
	},
	{
		name: "a deletion",
		before: func(s *stage) {
			s.putPair("site/", s.script.pairs[0])
			s.put("dir/deep/file", "x")
		},
		change: func(s *stage) { s.Remove(0, "site", "dir") },
		whole:  []string{""},
		kept:   []string{"site/privkey.pem", "dir/deep/file"},
	},
	{
		name: "one replaces another",
		before: func(s *stage) {
			s.put("dir/a", "1")
			s.put("dir/b", "1")
		},
		change: func(s *stage) {
			s.Rename(0, "dir/a", "dir/c")
			s.put("dir/b", "2")
		},
	},
	{
		name: "kinds",
		before: func(s *stage) {
			s.put("file", "x")
			s.put("dir/in", "x")
			s.Mkdir(0, "empty")
			s.Symlink(0, "file", "link")
		},
		change: func(s *stage) {
			s.Remove(0, "file", "dir", "link", "empty")
			s.put("file/in/it", "y")
			s.Symlink(0, "link", "dir")
			s.put("link", "y")
			s.put("empty", "z")
		},
		kept: []string{"file", "dir/in"},
	},
	{
		name:   "a mode",
		before: func(s *stage) { s.put("file", "x"); s.Mkdir(0, "dir") },
		change: func(s *stage) { s.Chmod(0, "file", 0o600); s.Chmod(0, "dir", 0o700) },
	},
	{
		name: "a generation that is published",
		before: func(s *stage) {
			s.trial.publishGeneration(s, 1)
		},
		publish: func(s *stage) { s.trial.publishGeneration(s, 2) },
		whole:   []string{""},
		link:    "live/site",
	},
	{
		name:  "a first contact",
		joins: true,
		before: func(s *stage) {
			s.putPair("site/", s.script.pairs[0])
			s.put("both", "of the fleet")
			for p, text := range map[string]string{"both": "found", "mine": "found"} {
				if err := os.WriteFile(s.Path(1, p), []byte(text), 0o644); err != nil {
					s.t.Fatal(err)
				}
			}
		},
		change: func(*stage) {},
		whole:  []string{"site"},
		kept:   []string{"both"},
	},
}

func (tr *trial) publishGeneration(s *stage, n int) {
	p := s.script.pairs[n-1]
	at := func(file string) index.Path { return index.MustPath(fmt.Sprintf("archive/site/%d/%s", n, file)) }
	s.publish(
		syncer.Write{Path: at("privkey.pem"), Data: []byte(p.key), Perm: 0o600},
		syncer.Write{Path: at("fullchain.pem"), Data: []byte(p.chain), Perm: 0o644},
		syncer.Write{Path: index.MustPath("live/site"), Link: fmt.Sprintf("../archive/site/%d", n)},
	)
}
