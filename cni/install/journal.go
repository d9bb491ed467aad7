package install

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// JournalName is the journal's name in the folder of conflists: beside what it
// tells of, so that both are written to the same disk and outlive a reboot
// together. Runtimes do not read files with this ending.
const JournalName = "tunmesh.journal"

// journalVersion of the file; another is not understood.
const journalVersion = 1

// Journal is what was changed on this node, written before it is changed.
type Journal struct {
	Version int    `json:"version"`
	Edits   []Edit `json:"edits,omitempty"`
	// Program is the copy of the plugin; KeepProgram leaves it there at the end,
	// for runtimes that call for DEL what they called for ADD.
	Program     string `json:"program,omitempty"`
	KeepProgram bool   `json:"keepProgram,omitempty"`
	// StateDir has a file for each meshed pod.
	StateDir string `json:"stateDir"`
	// Withdrawn is set when the mesh was removed from this node while meshed pods
	// were on it.
	Withdrawn time.Time `json:"withdrawn,omitzero"`
}

// Edit is a conflist with our entry.
type Edit struct {
	File string `json:"file"`
	// From is the single plugin's file that File was made from and put in the
	// place of.
	From string `json:"from,omitempty"`
	// Original is what File, or From, had in it.
	Original []byte `json:"original"`
	Mode     uint32 `json:"mode"`
	UID      int    `json:"uid"`
	GID      int    `json:"gid"`
	// Result is the SHA-256 of what was written.
	Result string `json:"result"`
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// ReadJournal returns fs.ErrNotExist when there is none.
func ReadJournal(path string) (*Journal, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	j := &Journal{}
	if err := json.Unmarshal(raw, j); err != nil {
		return nil, fmt.Errorf("read the journal %s: %w", path, err)
	}
	if j.Version != journalVersion {
		return nil, fmt.Errorf("read the journal %s: its version is %d, and %d is known", path, j.Version, journalVersion)
	}
	for _, e := range j.Edits {
		if e.File == "" || e.File != filepath.Base(e.File) || (e.From != "" && e.From != filepath.Base(e.From)) {
			return nil, fmt.Errorf("read the journal %s: %q and %q are no names in its folder", path, e.File, e.From)
		}
	}
	return j, nil
}

// readOrNew returns an empty journal when there is none. One that cannot be read
// is put aside by the next write: an entry is found and removed without it.
func readOrNew(path string) (*Journal, error) {
	j, err := ReadJournal(path)
	if err == nil {
		return j, nil
	}
	empty := &Journal{Version: journalVersion}
	if errors.Is(err, fs.ErrNotExist) {
		return empty, nil
	}
	return empty, err
}

func (j *Journal) write(dir folder) error {
	raw, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the journal: %w", err)
	}
	return dir.put(JournalName, append(raw, '\n'), owner{mode: 0o600, uid: os.Geteuid(), gid: os.Getegid()})
}

func (j *Journal) edit(file string) *Edit {
	if i := slices.IndexFunc(j.Edits, func(e Edit) bool { return e.File == file }); i >= 0 {
		return &j.Edits[i]
	}
	return nil
}

func (j *Journal) forget(file string) {
	j.Edits = slices.DeleteFunc(j.Edits, func(e Edit) bool { return e.File == file })
}
