package control

// History is what a node's archive has of one replicated directory: the versions of one path, or else the paths that have versions. It
// tells of files, never what is in one that is not public: of a certificate its serial, of a key nothing.
type History struct {
	Directory string         `json:"directory"`
	Path      string         `json:"path"`     // percent-encoded where not UTF-8; "" when none was asked for
	Versions  List[Version]  `json:"versions"` // of Path, newest first
	Paths     List[KeptPath] `json:"paths"`    // when no path was asked for, or one below which something is kept
}

// Version is one earlier version of a path.
type Version struct {
	Version  string           `json:"version"`     // names it, on this node
	Replaced Time             `json:"replaced"`    // when it was overwritten or deleted here
	Size     int64            `json:"size"`        // bytes
	Digest   string           `json:"digest"`      // the first 12 hex digits of the content's SHA-256; "" for a link
	Mode     string           `json:"mode"`        // octal; "" for a link
	Owner    string           `json:"owner"`       // user:group; "" for a link
	Link     string           `json:"link"`        // target of a symbolic link, percent-encoded where not UTF-8
	File     string           `json:"file"`        // where it lies on this node; a file: URI (RFC 8089) where that is not UTF-8
	Cert     *KeptCertificate `json:"certificate"` // null where there is none in it
}

// KeptCertificate is the first certificate of a PEM file.
type KeptCertificate struct {
	Serial   string       `json:"serial"` // lower-case hex, as in Status
	NotAfter Time         `json:"not_after"`
	Names    List[string] `json:"names"`
}

// KeptPath is a path that has versions.
type KeptPath struct {
	Path     string `json:"path"` // percent-encoded where not UTF-8
	Versions int    `json:"versions"`
	Replaced Time   `json:"replaced"` // when the newest of them was
}

// Restoration asks for an earlier version of a path.
type Restoration struct {
	Directory string // "": the only one, or the one that an absolute Path is in
	Path      string // in the directory, or absolute
	Version   string // "": the newest
	Force     bool   // also if it is half of a pair that would not match
}

// Restored is what was put back, in one batch.
type Restored struct {
	Directory string              `json:"directory"`
	Restored  List[RestoredEntry] `json:"restored"` // empty: everything stands as it was asked for
	Unchanged List[RestoredEntry] `json:"unchanged"`
}

// RestoredEntry is one path and the version of it that stands there now.
type RestoredEntry struct {
	Path     string `json:"path"` // percent-encoded where not UTF-8
	Version  string `json:"version"`
	Replaced Time   `json:"replaced"` // when it had been
}

// RolledBack is the generation of a certificate that the fleet wants in force again.
type RolledBack struct {
	Name       string `json:"name"`
	Generation int    `json:"generation"`
	Previous   int    `json:"previous"` // the generation that was in force; the same as Generation: nothing changed
	Serial     string `json:"serial"`   // lower-case hex, as in Status
	NotAfter   Time   `json:"not_after"`
	Issuing    bool   `json:"issuing"` // an issuance is under way, whose certificate will take its place
}
