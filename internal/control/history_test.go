package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"certswarm/internal/control"
)

func (d *daemon) History(_ context.Context, directory, path string) (control.History, error) {
	if directory == "nowhere" {
		return control.History{}, errors.New("there is no directory \"nowhere\"")
	}
	return control.History{Directory: directory, Path: path, Versions: control.List[control.Version]{
		{Version: "v", Replaced: control.At(time.Unix(1e9, 0)), Size: 3, Cert: &control.KeptCertificate{Serial: "ab"}},
	}}, nil
}

func (d *daemon) Restore(_ context.Context, r control.Restoration) (control.Restored, error) {
	return control.Restored{Directory: fmt.Sprintf("%#v", r)}, nil
}

func (d *daemon) RollBack(_ context.Context, name string, generation int) (control.RolledBack, error) {
	if name == "nobody" {
		return control.RolledBack{}, fmt.Errorf("%w: nobody", control.ErrUnknownCertificate)
	}
	return control.RolledBack{Name: name, Generation: generation}, nil
}

// What is asked arrives as it is, whatever bytes a path has.
func TestHistoryAndItsCommandsTravel(t *testing.T) {
	client, _, _ := up(t, &daemon{status: healthy()})
	ctx := t.Context()
	path := "dir/a b&c=\xff.pem"
	h, err := client.History(ctx, "certs", path)
	if err != nil || h.Directory != "certs" || len(h.Versions) != 1 || h.Versions[0].Cert.Serial != "ab" || !h.Versions[0].Replaced.Equal(time.Unix(1e9, 0)) {
		t.Errorf("%+v, %v", h, err)
	}
	if _, err := client.History(ctx, "nowhere", ""); err == nil || err.Error() != `there is no directory "nowhere"` {
		t.Error(err)
	}
	for _, r := range []control.Restoration{
		{Directory: "certs", Path: path, Version: "20260102T030405.678901234Z"}, {Path: "/etc/a", Force: true},
	} {
		if done, err := client.Restore(ctx, r); err != nil || done.Directory != fmt.Sprintf("%#v", r) {
			t.Errorf("%+v became %+v, %v", r, done, err)
		}
	}
	for _, generation := range []int{0, 7} {
		if back, err := client.RollBack(ctx, "www", generation); err != nil || !reflect.DeepEqual(back, control.RolledBack{Name: "www", Generation: generation}) {
			t.Errorf("%+v, %v", back, err)
		}
	}
	if _, err := client.RollBack(ctx, "nobody", 0); !errors.Is(err, control.ErrUnknownCertificate) {
		t.Error(err)
	}
	refused := httptest.NewRecorder()
	control.NewServer(&daemon{}, quiet).ServeHTTP(refused, httptest.NewRequest(http.MethodPost, "/v1/rollback?name=www&generation=last", nil))
	if refused.Code != http.StatusBadRequest || !strings.Contains(refused.Body.String(), "is a number") {
		t.Errorf("a generation that is no number: %d %s", refused.Code, refused.Body)
	}
}

// Nothing in these answers is null that a script could want to walk through.
func TestEmptyAnswersHaveLists(t *testing.T) {
	for _, answer := range []any{control.History{}, control.Restored{}, control.KeptCertificate{NotAfter: control.At(time.Unix(1, 0))}} {
		if text, err := json.Marshal(answer); err != nil || strings.Contains(string(text), "null") {
			t.Errorf("%s, %v", text, err)
		}
	}
}
