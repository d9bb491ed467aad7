package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// putVolume makes the volume below dir, or brings its files up to date: each is
// replaced whole, so that readers see the old one or the new one.
func putVolume(dir string, v Volume) error {
	at := filepath.Join(dir, v.Name)
	err := os.Mkdir(at, 0o700)
	if err == nil {
		if v.MaxBytes == 0 {
			v.MaxBytes = DefaultVolumeBytes
		}
		err = unix.Mount("tmpfs", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("mode=%o,uid=%d,gid=%d,size=%d", v.Mode, v.UID, v.GID, v.MaxBytes))
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make volume %s: %w", v.Name, err)
	}
	if v.Files == nil {
		return nil
	}
	keep := map[string]bool{".": true}
	for _, f := range v.Files {
		if err := putFile(at, f, v); err != nil {
			return fmt.Errorf("write %s of volume %s: %w", f.Path, v.Name, err)
		}
		for p := f.Path; p != "."; p = filepath.Dir(p) {
			keep[p] = true
		}
	}
	return filepath.WalkDir(at, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(at, p)
		if keep[rel] {
			return nil
		}
		if err := os.RemoveAll(p); err != nil {
			return err
		}
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
}

func putFile(dir string, f File, v Volume) error {
	to := filepath.Join(dir, f.Path)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(to), ".new-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(f.Data)
	if err == nil {
		err = tmp.Chown(int(v.UID), int(v.GID))
	}
	if err == nil {
		err = tmp.Chmod(fs.FileMode(f.Mode))
	}
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), to)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
	}
	return err
}
