package install

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// LockName is a file in the state folder: agents of two releases, and the plugin's last
// DEL, may want to edit at the same time.
const LockName = "install.lock"

func lock(stateDir string) (unlock func(), err error) {
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return nil, fmt.Errorf("lock the installation: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(stateDir, LockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the installation: %w", err)
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock the installation: %w", err)
	}
	return func() { _ = f.Close() }, nil
}

// Withdraw takes the mesh out of the node's chain: at once when no meshed pod is
// on it, else when the last one is gone (Finish). Until then entry, program and
// journal stay, so that each pod's DEL gives its network back, and a pod that
// was injected all the same is told why it cannot start. done: all is undone.
func (i *Installer) Withdraw(now time.Time) (done bool, err error) {
	unlock, err := lock(i.cfg.StateDir)
	if err != nil {
		return false, err
	}
	defer unlock()
	j, err := readOrNew(i.net.join(JournalName))
	if err != nil {
		i.cfg.Log.Warn("withdraw without a journal", "error", err)
		j.Program, j.StateDir = i.bin.join(i.cfg.Type), i.cfg.StateDir
	}
	pods, err := used(i.cfg.StateDir)
	if err != nil {
		return false, err
	}
	if pods == 0 {
		return true, undoAll(i.net, j, i.cfg.Type)
	}
	j.Withdrawn = now
	i.cfg.Log.Warn("meshed pods are on this node: the plugin stays until the last one is gone", "pods", pods)
	return false, j.write(i.net)
}

// Finish undoes everything when the mesh was withdrawn from the node whose
// journal this is and no meshed pod is left. It is cheap when there is nothing
// to do: the plugin calls it after each DEL.
func Finish(journal, typ string, log *slog.Logger) (done bool, err error) {
	j, err := ReadJournal(journal)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil || j.Withdrawn.IsZero() {
		return false, err
	}
	unlock, err := lock(j.StateDir)
	if err != nil {
		return false, err
	}
	defer unlock()
	// An agent may have come back, or another DEL been quicker.
	j, err = ReadJournal(journal)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil || j.Withdrawn.IsZero() {
		return false, err
	}
	pods, err := used(j.StateDir)
	if err != nil || pods > 0 {
		return false, err
	}
	if err := undoAll(folder{filepath.Dir(journal)}, j, typ); err != nil {
		return false, err
	}
	log.Info("the last meshed pod is gone: the mesh is out of the CNI chain", "journal", journal)
	return true, nil
}

// used counts the meshed pods of the node.
func used(stateDir string) (int, error) {
	files, err := os.ReadDir(filepath.Join(stateDir, Networks))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("count meshed pods: %w", err)
	}
	n := 0
	for _, f := range files {
		if filepath.Ext(f.Name()) == ".json" {
			n++
		}
	}
	return n, nil
}

// undoAll undoes every edit, also those that no journal tells of. The journal
// goes last: what is cut short is done again.
func undoAll(dir folder, j *Journal, typ string) error {
	var errs []error
	for _, e := range j.Edits {
		errs = append(errs, undo(dir, e, typ))
	}
	strays, err := filepath.Glob(dir.join("*.conflist"))
	errs = append(errs, err)
	for _, path := range strays {
		errs = append(errs, undo(dir, Edit{File: filepath.Base(path)}, typ))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("take the mesh out of the CNI chain: %w", err)
	}
	if j.Program != "" && !j.KeepProgram {
		if err := os.Remove(j.Program); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the plugin: %w", err)
		}
	}
	return errors.Join(dir.sweep(), dir.remove(JournalName))
}

// undo takes our entry out of a conflist. Who edited it after us keeps what was
// written, and gets back what was there before us otherwise.
func undo(dir folder, e Edit, typ string) (err error) {
	for range tries {
		err = undoOnce(dir, e, typ)
		if !errors.Is(err, errChanged) {
			break
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // its owner removed it
	}
	return err
}

func undoOnce(dir folder, e Edit, typ string) error {
	now, o, err := dir.read(e.File)
	if err != nil {
		return err
	}
	ours := sum(now) == e.Result
	if ours && e.From != "" {
		if err := dir.create(e.From, e.Original, e.owner()); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return dir.take(e.File, now)
	}
	without, err := Remove(now, typ)
	switch {
	case ours:
		without = e.Original
	case err != nil:
		return nil //nolint:nilerr // no chain, so nobody uses it: its owner's matter
	case bytes.Equal(without, now):
		return nil
	}
	return dir.replace(e.File, now, without, o)
}
