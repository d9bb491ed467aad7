package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/tunmesh/tunmesh/cni/install"
	"github.com/tunmesh/tunmesh/cni/podnet"
	"github.com/tunmesh/tunmesh/internal/handover"
)

// stateVersion of the file; another is not understood.
const stateVersion = 1

// state is what ADD writes before it changes anything, for CHECK, DEL and GC.
type state struct {
	Version     int            `json:"version"`
	ContainerID string         `json:"containerID"`
	IfName      string         `json:"ifName"`
	Network     string         `json:"network"`
	Pod         handover.Pod   `json:"pod"`
	Made        podnet.Network `json:"made"`
}

// garbageError is a state file that cannot be used.
type garbageError struct {
	path string
	err  error
}

func (e *garbageError) Error() string {
	return fmt.Sprintf("the state file %s is damaged (%v): DEL removes it", e.path, e.err)
}

func (e *garbageError) Unwrap() error { return e.err }

// store keeps a file a container.
type store struct{ dir string }

const (
	stateExt   = ".json"
	tempPrefix = ".new-"
)

func newStore(stateDir string) store { return store{filepath.Join(stateDir, install.Networks)} }

func (s store) path(id string) string { return filepath.Join(s.dir, id+stateExt) }

// create writes the file; fs.ErrExist when there is one. The file appears whole
// or not at all: written beside, synced, then linked, which never replaces.
func (s store) create(st *state) (err error) {
	raw, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the state: %w", err)
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("make the state folder: %w", err)
	}
	f, err := os.CreateTemp(s.dir, tempPrefix)
	if err != nil {
		return fmt.Errorf("write the state: %w", err)
	}
	_, err = f.Write(raw)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Link(f.Name(), s.path(st.ContainerID))
	}
	if rerr := os.Remove(f.Name()); err == nil {
		err = rerr
	}
	if err != nil {
		return fmt.Errorf("write the state: %w", err)
	}
	return s.sync()
}

// load returns fs.ErrNotExist when there is no file, a *garbageError when it
// is not a state.
func (s store) load(id string) (*state, error) {
	raw, err := os.ReadFile(s.path(id))
	if err != nil {
		return nil, fmt.Errorf("read the state: %w", err)
	}
	st, err := decodeState(raw)
	if err == nil && st.ContainerID != id {
		err = fmt.Errorf("it is of container %q", st.ContainerID)
	}
	if err != nil {
		return nil, &garbageError{s.path(id), err}
	}
	return st, nil
}

func decodeState(raw []byte) (*state, error) {
	st := &state{}
	if err := json.Unmarshal(raw, st); err != nil {
		return nil, err
	}
	if st.Version != stateVersion {
		return nil, fmt.Errorf("its version is %d, and %d is known", st.Version, stateVersion)
	}
	if st.ContainerID == "" || st.IfName == "" || st.IfName != st.Made.Link.Name {
		return nil, errors.New("it names no container or no interface")
	}
	if err := st.Made.Validate(); err != nil {
		return nil, err
	}
	return st, nil
}

func (s store) remove(id string) error {
	if err := os.Remove(s.path(id)); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("remove the state: %w", err)
	}
	return s.sync()
}

// ids lists the containers that have a file.
func (s store) ids() ([]string, error) {
	files, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the states: %w", err)
	}
	var out []string
	for _, f := range files {
		if id, ok := strings.CutSuffix(f.Name(), stateExt); ok && !strings.HasPrefix(id, ".") {
			out = append(out, id)
		}
	}
	return out, nil
}

// sync makes the folder's entries durable.
func (s store) sync() error {
	d, err := os.Open(s.dir)
	if err != nil {
		return fmt.Errorf("sync the state folder: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync the state folder: %w", err)
	}
	return nil
}
