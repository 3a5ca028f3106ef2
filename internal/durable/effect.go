package durable

// Act is one kind of change that is made to a disk, or of waiting for it.
type Act string

// The acts. Each is done whole as far as this package can see; what is between two of them is where a power cut is told apart.
const (
	ActMakeDirectory Act = "make directory"
	ActSetMode       Act = "set mode"
	ActStage         Act = "stage"
	ActPlace         Act = "place"
	ActRemove        Act = "remove"
	ActSetAside      Act = "set aside"
	ActKeep          Act = "keep" // in an archive
	ActTrim          Act = "trim" // an archive
	ActPrepare       Act = "prepare"
	ActSync          Act = "sync" // a directory
	ActSyncAll       Act = "sync all"
	ActOpen          Act = "open" // a file that is made if it is not there, and overwritten in place
	ActWriteIntent   Act = "write intent"
	ActAppend        Act = "append" // a line
	ActCommit        Act = "commit" // what a database writes by itself: see Do
)

// Effect is one act, on a name in a root.
type Effect struct {
	Act   Act
	Dir   string // of the root
	Name  string // in it; of what is staged and placed, the name that it is for
	Token string // of what is staged and placed
	// Synced says that the effect is durable when it ends. Of what is staged, committed or written as an intent that means the content; that the name
	// is there is durable when its directory is synced.
	Synced bool
}

// Interposer stands between a program and its disk. It is called for every effect, from any goroutine and perhaps with locks of the program held; it
// calls do once or not at all, and what it returns is what the program believes has become of the effect.
type Interposer func(e Effect, do func() error) error

// Interpose has every effect of a root, and of what is opened Beside it, go through by. It must be called before anything else; nil changes nothing.
func (r *Root) Interpose(by Interposer) { r.interposer = by }

// Beside opens another directory, whose effects go the way of this root's.
func (r *Root) Beside(dir string) (*Root, error) {
	opened, err := OpenRoot(dir)
	if err == nil {
		opened.interposer = r.interposer
	}
	return opened, err
}

// Do does what somebody else does to a file in the root by itself, as one of the root's effects.
func (r *Root) Do(e Effect, do func() error) error { return r.effect(e, do) }

func (r *Root) effect(e Effect, do func() error) error {
	if r.interposer == nil {
		return do()
	}
	e.Dir = r.path
	return r.interposer(e, do)
}
