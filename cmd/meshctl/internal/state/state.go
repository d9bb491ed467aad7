// Package state is a local mesh's folder on the machine: where everything is,
// who may hold it, and what a holder that was killed left behind. It owns names
// and locks; what the files mean is their writers'.
//
//	/run/tunmesh-local/NAME/       0700
//	  lock                         held (flock) as long as the holder lives
//	  holder.json                  its pid, its slot
//	  holder.sock                  commands (0600)
//	  query.sock                   the control plane's query API (0600)
//	  view.sock                    the same in HTTP, and the console (0600)
//	  holder.log                   what holder, control plane and agent say
//	  identity/ token/             CA and token keys
//	  manifests/*.yaml             what was applied
//	  pods/*.json                  v1.Pod with status
//	  logs/NAMESPACE_POD_UID/CONTAINER.log
package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Root holds a folder per mesh. It is on a tmpfs everywhere: nothing of a mesh
// outlives a boot.
const Root = "/run/tunmesh-local"

// DefaultName is the mesh that commands mean when none is named.
const DefaultName = "default"

// Slots is the number of meshes side by side; each has a range of user ids.
const Slots = 16

// Dir is a mesh's folder.
type Dir string

// Named is the folder of the mesh of that name.
func Named(name string) (Dir, error) {
	if !regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`).MatchString(name) {
		return "", fmt.Errorf("%q is no name for a mesh: want up to 32 lower-case letters, digits and '-'", name)
	}
	return Dir(filepath.Join(Root, name)), nil
}

// Name of the mesh.
func (d Dir) Name() string { return filepath.Base(string(d)) }

func (d Dir) join(elem ...string) string {
	return filepath.Join(append([]string{string(d)}, elem...)...)
}

// Places in the folder.
func (d Dir) Socket() string    { return d.join("holder.sock") }
func (d Dir) Query() string     { return d.join("query.sock") }
func (d Dir) View() string      { return d.join("view.sock") }
func (d Dir) Log() string       { return d.join("holder.log") }
func (d Dir) Stderr() string    { return d.join("holder.stderr") }
func (d Dir) Control() string   { return d.join("control") }
func (d Dir) Manifests() string { return d.join("manifests") }
func (d Dir) Pods() string      { return d.join("pods") }
func (d Dir) Logs() string      { return d.join("logs") }

// Holder describes who holds a mesh.
type Holder struct {
	// PID of the holder, in the machine's PID namespace.
	PID  int
	Slot int
}

// ErrHeld means that the mesh is up.
var ErrHeld = errors.New("is running already")

// Lock is the right to be a mesh's holder; it lasts as long as any process has
// the file open.
type Lock struct {
	File *os.File
	Slot int
}

// Claim locks the mesh, after removing what a holder that was killed left, and
// makes its folders. ErrHeld when it is up.
func (d Dir) Claim() (*Lock, error) {
	if err := os.MkdirAll(Root, 0o700); err != nil {
		return nil, fmt.Errorf("make the state folder: %w", err)
	}
	unlock, err := lockRoot()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if d.Held() {
		return nil, fmt.Errorf("the local mesh %q %w: meshctl local apply adds to it, meshctl local down ends it", d.Name(), ErrHeld)
	}
	slot, err := freeSlot()
	if err != nil {
		return nil, err
	}
	if err := os.RemoveAll(string(d)); err != nil {
		return nil, fmt.Errorf("clean up after the last holder: %w", err)
	}
	for _, p := range []string{string(d), d.Control(), d.Manifests(), d.Pods(), d.Logs()} {
		if err := os.Mkdir(p, 0o700); err != nil {
			return nil, fmt.Errorf("make the state folder: %w", err)
		}
	}
	f, err := os.OpenFile(d.join("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the state folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the state folder: %w", err), f.Close())
	}
	if err := d.writeHolder(Holder{Slot: slot}); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Lock{File: f, Slot: slot}, nil
}

// Started writes down who the holder is.
func (d Dir) Started(l *Lock, pid int) error {
	return d.writeHolder(Holder{PID: pid, Slot: l.Slot})
}

func (d Dir) writeHolder(h Holder) error {
	raw, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("write the holder: %w", err)
	}
	return WriteFile(d.join("holder.json"), raw, 0o600)
}

// Holder reads who holds the mesh.
func (d Dir) Holder() (Holder, error) {
	raw, err := os.ReadFile(d.join("holder.json"))
	if err != nil {
		return Holder{}, err
	}
	var h Holder
	if err := json.Unmarshal(raw, &h); err != nil {
		return Holder{}, fmt.Errorf("read the holder: %w", err)
	}
	return h, nil
}

// Held says whether a holder lives.
func (d Dir) Held() bool {
	f, err := os.Open(d.join("lock"))
	if err != nil {
		return false
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	return errors.Is(err, unix.EWOULDBLOCK)
}

// Remove deletes the folder of a mesh that nobody holds.
func (d Dir) Remove() error {
	unlock, err := lockRoot()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	if d.Held() {
		return fmt.Errorf("remove the state of %q: it %w", d.Name(), ErrHeld)
	}
	if err := os.RemoveAll(string(d)); err != nil {
		return fmt.Errorf("remove the state of %q: %w", d.Name(), err)
	}
	return nil
}

// List names the meshes that have a folder, up or not.
func List() ([]Dir, error) {
	entries, err := os.ReadDir(Root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []Dir
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, Dir(filepath.Join(Root, e.Name())))
		}
	}
	return out, nil
}

// RemoveRoot removes the folder above all meshes when there are none.
func RemoveRoot() error {
	unlock, err := lockRoot()
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	defer unlock()
	if dirs, err := List(); err != nil || len(dirs) > 0 {
		return err
	}
	return os.RemoveAll(Root)
}

// lockRoot serialises those who make and remove folders.
func lockRoot() (unlock func(), err error) {
	path := filepath.Join(Root, ".lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", Root, err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(deadline) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", Root, err), f.Close())
		}
		time.Sleep(10 * time.Millisecond)
	}
	return func() { _ = f.Close() }, nil
}

// freeSlot finds one that no mesh that is up has. The root must be locked.
func freeSlot() (int, error) {
	dirs, err := List()
	if err != nil {
		return 0, err
	}
	var used [Slots]bool
	for _, d := range dirs {
		if h, err := d.Holder(); err == nil && d.Held() && h.Slot >= 0 && h.Slot < Slots {
			used[h.Slot] = true
		}
	}
	slot := slices.Index(used[:], false)
	if slot < 0 {
		return 0, fmt.Errorf("%d local meshes are up, the most there can be: end one with meshctl local down", Slots)
	}
	return slot, nil
}

// WriteFile replaces a file whole: readers see the old one or the new one.
func WriteFile(path string, data []byte, mode fs.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Chmod(mode)
	}
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
