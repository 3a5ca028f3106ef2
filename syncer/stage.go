package syncer

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"certswarm/internal/durable"
	"certswarm/syncer/index"
)

// Staging: the new version of each file beside its target, verified as it is written; nothing visible changes.

// places returns the directories in which something was staged.
func (l *landing) places(staged []*index.Entry) []string {
	var out []string
	seen := map[index.Path]bool{}
	for _, e := range staged {
		if dir := e.Path.Parent(); !seen[dir] {
			seen[dir] = true
			out = append(out, rootOr(dir))
		}
	}
	return out
}

// unstage removes what was staged and not placed.
func (d *Directory) unstage(l *landing, staged []*index.Entry) {
	for _, e := range staged {
		if l.placed[e] {
			continue
		}
		if err := d.disk.root.Unstage(e.Path.String(), l.stagedAs(e)); err != nil && !errors.Is(err, durable.ErrKind) {
			d.log.Warn("a temporary file is left behind", "error", err)
		}
	}
}

// newToken names a job's temporaries.
func newToken() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// stagedAs names an entry's temporary by its path: a job may hold entries of several origins, whose numbers mean nothing to each other.
func stagedAs(token string, e *index.Entry) string {
	sum := sha256.Sum256([]byte(e.Path.String()))
	return fmt.Sprintf("%s-%x", token, sum[:8])
}

// stage puts whatever the plan needs beside its target. The first error of one file is the error of all: a batch is
// visible whole or not at all.
func (d *Directory) stage(ctx context.Context, l *landing, plan index.Plan) (staged []*index.Entry, err error) {
	for _, step := range plan {
		e := step.Entry
		var content io.Reader
		switch step.Action {
		case index.PutFile:
			source, err := d.content(ctx, l.job, e)
			if err != nil {
				return staged, nowhere{e, err}
			}
			defer source.Close()
			content = source
		case index.PutLink:
		default:
			continue
		}
		warn, err := d.stageOne(l.disk, e, l.stagedAs(e), content)
		if errors.Is(err, errNowhere) {
			return staged, nowhere{e, err}
		}
		if err != nil {
			return staged, fmt.Errorf("%s cannot be written: %w", e.Path, err)
		}
		l.warns[e] = warn
		staged = append(staged, e)
	}
	return staged, nil
}

// stageOne stages one entry's new version, verified against its digest as it is written.
func (d *Directory) stageOne(root *durable.Root, e *index.Entry, token string, content io.Reader) (warn, err error) {
	v := durable.Version{Volatile: e.Expires != 0, Owner: durable.AsItIs}
	if old, err := root.Lstat(e.Path.String()); err == nil {
		v.After = old.Mtime
	}
	switch c := e.Content.(type) {
	case index.File:
		v.Kind, v.Perm, v.Owner = durable.File, uint32(c.Perm), d.disk.owners.wanted(c.Owner, c.Group)
		if content, err = verified(content, c); err != nil {
			return nil, err
		}
	case index.Symlink:
		v.Kind, v.Target = durable.Symlink, c.Target
	}
	warn, err = root.Stage(e.Path.String(), token, v, content)
	if warn == nil && err == nil {
		warn = d.disk.owners.unknown(e.Content)
	}
	return warn, err
}

// inMemory is a source that can be read again: a bytes.Reader.
type inMemory interface {
	io.ReadSeeker
	io.WriterTo
	Len() int
}

// verified returns a reader of content that does not end well unless it is what is wanted. What is in memory is looked at at once.
func verified(content io.Reader, want index.File) (io.Reader, error) {
	small, ok := content.(inMemory)
	if !ok {
		return &verifying{source: io.LimitReader(content, want.Size+1), want: want, sum: sha256.New()}, nil
	}
	sum := sha256.New()
	if n, err := small.WriteTo(sum); err != nil || n != want.Size || index.Digest(sum.Sum(nil)) != want.Digest {
		return nil, errNowhere
	}
	_, err := small.Seek(0, io.SeekStart)
	return small, err
}

// verifying ends in an error unless what it passed on was exactly what was wanted.
type verifying struct {
	source io.Reader
	want   index.File
	n      int64
	sum    hash.Hash
}

func (v *verifying) Read(b []byte) (int, error) {
	n, err := v.source.Read(b)
	v.n += int64(n)
	v.sum.Write(b[:n]) // never an error (hash.Hash)
	if err == io.EOF && (v.n != v.want.Size || index.Digest(v.sum.Sum(nil)) != v.want.Digest) {
		return n, errNowhere
	}
	return n, err
}
