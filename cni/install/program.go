package install

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// PutProgram copies the plugin, and nothing else.
func (i *Installer) PutProgram() error {
	unlock, err := lock(i.cfg.StateDir)
	if err != nil {
		return err
	}
	defer unlock()
	return i.copyProgram()
}

// copyProgram puts the plugin's program into its folder: whole or not at all,
// and without a moment in which there is none.
func (i *Installer) copyProgram() error {
	to := i.bin.join(i.cfg.Type)
	now, err := os.Stat(to)
	if err == nil && i.program != nil && os.SameFile(now, i.program) && now.Size() == i.program.Size() && now.ModTime().Equal(i.program.ModTime()) && now.Mode() == i.program.Mode() {
		return nil
	}
	if err == nil && now.Mode().Perm() == 0o755 {
		if equal, err := sameContent(i.cfg.Program, to); err == nil && equal {
			i.program = now
			return nil
		}
	}
	if err := i.writeProgram(to); err != nil {
		return fmt.Errorf("copy the plugin to %s: %w", to, err)
	}
	i.program, err = os.Stat(to)
	if err == nil {
		i.cfg.Log.Info("copied the plugin", "to", to)
	}
	return err
}

func (i *Installer) writeProgram(to string) (err error) {
	from, err := os.Open(i.cfg.Program)
	if err != nil {
		return err
	}
	defer from.Close()
	f, err := os.CreateTemp(i.bin.path, tempPrefix+"*"+tempSuffix)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	if err == nil {
		err = f.Chmod(0o755)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), to)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return i.bin.sync()
}

func sameContent(a, b string) (bool, error) {
	x, err := os.Open(a)
	if err != nil {
		return false, err
	}
	defer x.Close()
	y, err := os.Open(b)
	if err != nil {
		return false, err
	}
	defer y.Close()
	p, q := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, xerr := io.ReadFull(x, p)
		m, yerr := io.ReadFull(y, q)
		if !bytes.Equal(p[:n], q[:m]) {
			return false, nil
		}
		if xerr != nil || yerr != nil {
			ended := func(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }
			if ended(xerr) && ended(yerr) {
				return true, nil
			}
			return false, errors.Join(xerr, yerr)
		}
	}
}
