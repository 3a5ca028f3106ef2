package agent

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"path/filepath"
	"strings"

	"certswarm/internal/durable"
)

// CopyVersion copies an earlier version, from where control.Version says that it lies, to a file that must not be there yet. It is done with
// the rights of whoever calls it and not by the daemon: no key leaves the state directory for somebody who may not read it there. Mode and
// owner are those of the version; warn says that the owner is not.
func CopyVersion(from, to string) (warn, err error) {
	if strings.HasPrefix(from, "file:") {
		place, err := url.Parse(from)
		if err != nil {
			return nil, err
		}
		from = place.Path
	}
	shelf, err := durable.OpenRoot(filepath.Dir(from))
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%w: the archive is for the daemon's user alone, run this as root", err)
	}
	if err != nil {
		return nil, err
	}
	defer shelf.Close() // nothing was written: no news in its error
	dir, err := durable.OpenRoot(filepath.Dir(to))
	if err != nil {
		return nil, err
	}
	defer dir.Close() // what was written is durable
	base := filepath.Base(to)
	if _, err := dir.Lstat(base); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = fmt.Errorf("%s is there already; name a file that is not", to)
		}
		return nil, err
	}
	return copyBetween(shelf, filepath.Base(from), dir, base)
}

func copyBetween(source *durable.Root, from string, target *durable.Root, to string) (warn, err error) {
	st, err := source.Lstat(from)
	if err != nil {
		return nil, err
	}
	v := durable.Version{Kind: st.Kind, Perm: st.Perm, Owner: durable.Owner{UID: st.UID, GID: st.GID}}
	var content io.ReadCloser
	if st.Kind == durable.Symlink {
		v.Target, err = source.Readlink(from)
	} else {
		content, err = source.Open(from)
	}
	if err != nil {
		return nil, err
	}
	if content != nil {
		defer content.Close() // nothing was written: no news in its error
	}
	token := rand.Text()
	if warn, err = target.Stage(to, token, v, content); err != nil {
		return nil, err
	}
	if err := target.Place(to, token); err != nil {
		return nil, errors.Join(err, target.Unstage(to, token))
	}
	return warn, target.SyncDir("")
}
