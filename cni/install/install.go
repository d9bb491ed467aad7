package install

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"time"
)

// Networks is the folder in the plugin's state folder with a file for each
// meshed pod.
const Networks = "networks"

// Config of an Installer; all fields but KeepProgram and DamagedFor are required.
type Config struct {
	// NetDir and BinDir are the runtime's folders of conflists and of plugins.
	NetDir, BinDir string
	// Program is copied to BinDir under the name Type.
	Program string
	// Type and Entry are the plugin's in a conflist, Known its CNI versions.
	Type  string
	Entry []byte
	Known []string
	// StateDir is the plugin's.
	StateDir string
	// KeepProgram: see Journal.
	KeepProgram bool
	// DamagedFor is how long a conflist must have been damaged, without a change,
	// until the journal's text is written again; 30 s when 0.
	DamagedFor time.Duration
	Log        *slog.Logger
}

const damagedFor = 30 * time.Second

// Status says how the node's chain stands.
type Status struct {
	// File is the active conflist, "" when there is none (yet).
	File string
	// Installed: our entry is its last.
	Installed bool
	// Edited: this look changed something.
	Edited bool
}

// Installer keeps the mesh in the node's chain. One at a time on a node: a lock
// in StateDir sees to it.
type Installer struct {
	cfg     Config
	net     folder
	bin     folder
	program fs.FileInfo // the copy as it was written
	damaged damage
}

// damage is a conflist that is no JSON, and since when.
type damage struct {
	file, sum string
	since     time.Time
}

// New makes an Installer that has changed nothing.
func New(cfg Config) *Installer {
	if cfg.DamagedFor == 0 {
		cfg.DamagedFor = damagedFor
	}
	return &Installer{cfg: cfg, net: folder{cfg.NetDir}, bin: folder{cfg.BinDir}}
}

// tries when somebody else writes at the same time.
const tries = 5

// Reconcile brings the node to where the plugin's program is in its folder and
// our entry is the last of the active conflist, and nothing is left of the entry
// in any other. What it cannot do it leaves as it is, and says why.
func (i *Installer) Reconcile() (st Status, err error) {
	unlock, err := lock(i.cfg.StateDir)
	if err != nil {
		return st, err
	}
	defer unlock()
	for range tries {
		var once Status
		once, err = i.reconcile()
		once.Edited = once.Edited || st.Edited
		if st = once; !errors.Is(err, errChanged) && !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return st, err
}

func (i *Installer) reconcile() (st Status, err error) {
	j, err := readOrNew(i.net.join(JournalName))
	if err != nil {
		i.cfg.Log.Warn("begin a new journal", "error", err)
	}
	program := i.bin.join(i.cfg.Type)
	if j.Program != program || j.StateDir != i.cfg.StateDir || j.KeepProgram != i.cfg.KeepProgram || !j.Withdrawn.IsZero() {
		j.Program, j.StateDir, j.KeepProgram, j.Withdrawn = program, i.cfg.StateDir, i.cfg.KeepProgram, time.Time{}
		if err := j.write(i.net); err != nil {
			return st, err
		}
	}
	if err := i.copyProgram(); err != nil {
		return st, err
	}
	if st.File, err = i.net.active(); err != nil {
		return st, err
	}
	if st.File == "" {
		return i.recreate(j)
	}
	if filepath.Ext(st.File) == ".conflist" {
		st.Edited, err = i.editList(j, st.File)
	} else {
		st.File, err = i.convert(j, st.File)
		st.Edited = err == nil
	}
	if err != nil {
		return st, err
	}
	st.Installed = true
	return st, i.leaveOthers(j, st.File)
}

// editList appends to a conflist.
func (i *Installer) editList(j *Journal, name string) (edited bool, err error) {
	was, o, err := i.net.read(name)
	if err != nil {
		return false, err
	}
	e := j.edit(name)
	want, err := Append(was, i.cfg.Entry, i.cfg.Known)
	if err != nil && e != nil && i.staysDamaged(name, was) {
		i.cfg.Log.Warn("the conflist is damaged: write again what it was", "file", i.net.join(name), "error", err)
		if want, err = i.remembered(*e); err == nil {
			return true, i.net.replace(name, was, want, o)
		}
	}
	if err != nil {
		return false, i.unusable(name, err)
	}
	i.damaged = damage{}
	if bytes.Equal(want, was) && e != nil && e.Result == sum(was) {
		return false, nil
	}
	if e == nil || e.Result != sum(was) {
		// Somebody wrote it since, or the journal is new.
		original, err := Remove(was, i.cfg.Type)
		if err != nil {
			return false, i.unusable(name, err)
		}
		j.forget(name)
		j.Edits = append(j.Edits, Edit{File: name, Original: original, Mode: uint32(o.mode), UID: o.uid, GID: o.gid})
		e = j.edit(name)
	}
	e.Result = sum(want)
	if err := j.write(i.net); err != nil {
		return false, err
	}
	if bytes.Equal(want, was) {
		return false, nil
	}
	if err := i.net.replace(name, was, want, o); err != nil {
		return false, err
	}
	i.cfg.Log.Info("the mesh is in the CNI chain", "file", i.net.join(name))
	return true, nil
}

// staysDamaged: a file that is no JSON may be half written, but not for long. An
// empty one is what a node that lost its power finds.
func (i *Installer) staysDamaged(name string, content []byte) bool {
	if json.Valid(content) {
		i.damaged = damage{}
		return false
	}
	d := damage{file: name, sum: sum(content), since: time.Now()}
	if d.file != i.damaged.file || d.sum != i.damaged.sum {
		i.damaged = d
	}
	return time.Since(i.damaged.since) >= i.cfg.DamagedFor
}

// remembered is a conflist with our entry as the journal has it.
func (i *Installer) remembered(e Edit) ([]byte, error) {
	if e.From != "" {
		return i.converted(e.Original)
	}
	return Append(e.Original, i.cfg.Entry, i.cfg.Known)
}

// convert makes a conflist of a single plugin's file, in its place. Until the
// file is gone it is the active one, so there is always a network.
func (i *Installer) convert(j *Journal, single string) (list string, err error) {
	list = strings.TrimSuffix(single, filepath.Ext(single)) + ".conflist"
	original, o, err := i.net.read(single)
	if err != nil {
		return single, err
	}
	want, err := i.converted(original)
	if err != nil {
		return single, i.unusable(single, err)
	}
	was, _, err := i.net.read(list)
	absent := errors.Is(err, fs.ErrNotExist)
	if err != nil && !absent {
		return single, err
	}
	if e := j.edit(list); !absent && (e == nil || e.From == "") {
		return single, fmt.Errorf("%s is a single plugin, and a list cannot be made of it: %s is there already, of somebody else; remove one of the two", i.net.join(single), list)
	}
	j.forget(list)
	j.Edits = append(j.Edits, Edit{
		File: list, From: single, Original: original, Mode: uint32(o.mode), UID: o.uid, GID: o.gid, Result: sum(want),
	})
	if err := j.write(i.net); err != nil {
		return single, err
	}
	switch {
	case absent:
		err = i.net.create(list, want, o)
	case !bytes.Equal(was, want):
		err = i.net.replace(list, was, want, o)
	}
	if err != nil {
		return single, err
	}
	if err := i.net.take(single, original); err != nil {
		return single, err
	}
	i.cfg.Log.Info("the mesh is in the CNI chain", "file", i.net.join(list), "made_of", single)
	return list, nil
}

func (i *Installer) converted(single []byte) ([]byte, error) {
	list, err := Single(single)
	if err != nil {
		return nil, err
	}
	return Append(list, i.cfg.Entry, i.cfg.Known)
}

// recreate makes a list that we made of a single plugin's file again: whoever
// removed it did not put anything in its place, and we took the file away. A
// conflist of another CNI that is gone is its owner's to write.
func (i *Installer) recreate(j *Journal) (st Status, err error) {
	for _, e := range j.Edits {
		if e.From == "" {
			continue
		}
		want, err := i.remembered(e)
		if err != nil {
			return st, i.unusable(e.From, err)
		}
		if err := i.net.create(e.File, want, e.owner()); err != nil {
			return st, err
		}
		i.cfg.Log.Warn("made again what was removed", "file", i.net.join(e.File))
		return Status{File: e.File, Installed: true, Edited: true}, nil
	}
	return st, nil
}

func (e *Edit) owner() owner { return owner{mode: fs.FileMode(e.Mode), uid: e.UID, gid: e.GID} }

func (i *Installer) unusable(name string, err error) error {
	return fmt.Errorf("%s cannot be taken as a CNI chain, and is left as it is: %w", i.net.join(name), err)
}

// leaveOthers undoes the edits of conflists that are not active any more.
func (i *Installer) leaveOthers(j *Journal, active string) error {
	var errs []error
	for n := len(j.Edits) - 1; n >= 0; n-- {
		e := j.Edits[n]
		if e.File == active {
			continue
		}
		if err := undo(i.net, e, i.cfg.Type); err != nil {
			errs = append(errs, err)
			continue
		}
		j.forget(e.File)
		errs = append(errs, j.write(i.net))
		i.cfg.Log.Info("left a conflist that is not active any more", "file", i.net.join(e.File))
	}
	return errors.Join(errs...)
}
