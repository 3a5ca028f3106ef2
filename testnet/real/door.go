package real

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Accept is one request by which the CA is told to validate a challenge.
type Accept struct {
	Time time.Time
	// Served has, for each node, the challenges (URL paths) that its front-end's own access log said it had served to an
	// agent when the request came. The CA had not seen the request by then.
	Served map[string][]string
}

// door stands before the CA. It is shut until the fleet is up, and takes down what the front-ends had served whenever
// somebody comes to tell the CA to look.
type door struct {
	opened chan struct{}
	notes  bool    // what was served is taken down; it is not where tokens of several certificates come and go
	nodes  []*Node // set before opened is closed

	mu      sync.Mutex
	accepts []Accept // guarded by mu
}

func newDoor(notes bool) *door { return &door{opened: make(chan struct{}), notes: notes} }

// open lets in whoever waits. It is called once.
func (d *door) open(nodes []*Node) {
	d.nodes = nodes
	close(d.opened)
}

// guard is the ca.Config.Middleware.
func (d *door) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-d.opened:
		case <-r.Context().Done():
			return
		}
		// This is what Pebble calls its challenges. Agents never only read one.
		if d.notes && r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/chalZ/") {
			d.note()
		}
		next.ServeHTTP(w, r)
	})
}

// note waits a moment for front-ends whose logs say less than others': a web server writes its log after it has
// answered. Whoever waits at the door for the CA's answer fetches nothing meanwhile.
func (d *door) note() {
	const patience, pause = time.Second, 5 * time.Millisecond
	a := Accept{Time: time.Now()}
	for {
		a.Served = servedBy(d.nodes)
		if alike(a.Served) || time.Since(a.Time) > patience {
			break
		}
		time.Sleep(pause)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.accepts = append(d.accepts, a)
}

// servedBy reads the access logs. One that cannot be read proves nothing.
func servedBy(nodes []*Node) map[string][]string {
	served := map[string][]string{}
	for _, n := range nodes {
		fetches, _ := n.Fetches()
		var paths []string
		for _, f := range fetches {
			if f.Status == http.StatusOK && f.ByAgent() {
				paths = append(paths, f.Path)
			}
		}
		slices.Sort(paths)
		served[n.Name] = slices.Compact(paths)
	}
	return served
}

func alike(served map[string][]string) bool {
	var first []string
	for _, paths := range served {
		if first == nil {
			first = paths
		}
		if len(paths) == 0 || !slices.Equal(paths, first) {
			return false
		}
	}
	return true
}

// Accepts returns every request so far by which the CA was told to look, oldest first.
func (f *Fleet) Accepts() []Accept {
	f.door.mu.Lock()
	defer f.door.mu.Unlock()
	return slices.Clone(f.door.accepts)
}
