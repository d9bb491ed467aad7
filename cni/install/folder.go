package install

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// tempPrefix and tempSuffix of files that are being written. Runtimes watch the
// folder and read what ends in .conf, .conflist or .json; and containerd acts on
// the event of a file renamed *from* a name in its folder, so it has to be here.
const (
	tempPrefix = ".tunmesh-"
	tempSuffix = ".new"
)

// folder is a folder on the node.
type folder struct{ path string }

func (d folder) join(name string) string { return filepath.Join(d.path, name) }

// owner is what a file is besides its content.
type owner struct {
	mode     fs.FileMode
	uid, gid int
}

func ownerOf(info fs.FileInfo) owner {
	o := owner{mode: info.Mode().Perm(), uid: os.Geteuid(), gid: os.Getegid()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		o.uid, o.gid = int(st.Uid), int(st.Gid)
	}
	return o
}

// active is the file that a container runtime takes for the pods' network: the
// first by name. "" when there is none. containerd does not go on to the next if
// it cannot use it, and neither do we.
func (d folder) active() (string, error) {
	files, err := os.ReadDir(d.path) // sorted by name
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look for conflists: %w", err)
	}
	for _, f := range files {
		if !f.IsDir() && slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(f.Name())) {
			return f.Name(), nil
		}
	}
	return "", nil
}

// read returns a file's content and owner.
func (d folder) read(name string) ([]byte, owner, error) {
	f, err := os.Open(d.join(name))
	if err != nil {
		return nil, owner{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, owner{}, err
	}
	var b bytes.Buffer
	if _, err := b.ReadFrom(f); err != nil {
		return nil, owner{}, fmt.Errorf("read %s: %w", d.join(name), err)
	}
	return b.Bytes(), ownerOf(info), nil
}

// temp writes a file that is complete and on the disk, under a name that nobody
// reads. On any failure, a full disk included, nothing is left of it.
func (d folder) temp(content []byte, o owner) (name string, err error) {
	f, err := os.CreateTemp(d.path, tempPrefix+"*"+tempSuffix)
	if err != nil {
		return "", fmt.Errorf("write in %s: %w", d.path, err)
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(o.mode)
	}
	if err == nil && (o.uid != os.Geteuid() || o.gid != os.Getegid()) {
		err = f.Chown(o.uid, o.gid)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(fmt.Errorf("write in %s: %w", d.path, err), os.Remove(f.Name()))
	}
	return filepath.Base(f.Name()), nil
}

// put writes a file of our own, in place of what is there.
func (d folder) put(name string, content []byte, o owner) error {
	tmp, err := d.temp(content, o)
	if err != nil {
		return err
	}
	if err := os.Rename(d.join(tmp), d.join(name)); err != nil {
		return errors.Join(err, os.Remove(d.join(tmp)))
	}
	return d.sync()
}

// create writes a file that must not be there.
func (d folder) create(name string, content []byte, o owner) error {
	tmp, err := d.temp(content, o)
	if err != nil {
		return err
	}
	err = unix.Renameat2(unix.AT_FDCWD, d.join(tmp), unix.AT_FDCWD, d.join(name), unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) { // the file system does not know how
		if err = os.Link(d.join(tmp), d.join(name)); err == nil {
			err = os.Remove(d.join(tmp))
		}
	}
	if err != nil {
		return errors.Join(fmt.Errorf("create %s: %w", d.join(name), err), os.Remove(d.join(tmp)))
	}
	return d.sync()
}

// errChanged: somebody else wrote the file at the same time. Looking again helps.
var errChanged = errors.New("it was changed by somebody else meanwhile")

// replace writes content in the place of was. If the file has anything else in
// it by then, it keeps that: the two files change places in one step, and change
// back when the one that came out is not the one that was read.
func (d folder) replace(name string, was, content []byte, o owner) error {
	tmp, err := d.temp(content, o)
	if err != nil {
		return err
	}
	drop := func(err error) error { return errors.Join(err, os.Remove(d.join(tmp))) }
	swap := func() error {
		return unix.Renameat2(unix.AT_FDCWD, d.join(tmp), unix.AT_FDCWD, d.join(name), unix.RENAME_EXCHANGE)
	}
	err = swap()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // the file system does not know how
		if now, _, rerr := d.read(name); rerr != nil || !bytes.Equal(now, was) {
			return drop(fmt.Errorf("replace %s: %w", d.join(name), errors.Join(errChanged, rerr)))
		}
		if err = os.Rename(d.join(tmp), d.join(name)); err != nil {
			return drop(err)
		}
		return d.sync()
	}
	if err != nil { // it may just have been removed
		return drop(fmt.Errorf("replace %s: %w", d.join(name), err))
	}
	now, _, err := d.read(tmp)
	if err == nil && bytes.Equal(now, was) {
		return errors.Join(os.Remove(d.join(tmp)), d.sync())
	}
	err = errors.Join(errChanged, err)
	if serr := swap(); errors.Is(serr, fs.ErrNotExist) {
		return drop(fmt.Errorf("replace %s: %w", d.join(name), err)) // and then it was removed
	} else if serr != nil {
		// What came out of its place stays under its temporary name.
		return fmt.Errorf("replace %s, of which %s has what was there: %w", d.join(name), d.join(tmp), errors.Join(err, serr))
	}
	return drop(fmt.Errorf("replace %s: %w", d.join(name), err))
}

// take removes a file that has was in it, and nothing else.
func (d folder) take(name string, was []byte) error {
	tmp := tempPrefix + name + tempSuffix
	if err := os.Rename(d.join(name), d.join(tmp)); err != nil {
		return err
	}
	now, _, err := d.read(tmp)
	if err == nil && bytes.Equal(now, was) {
		return errors.Join(os.Remove(d.join(tmp)), d.sync())
	}
	back := os.Link(d.join(tmp), d.join(name)) // unless a newer one is there
	if errors.Is(back, fs.ErrExist) {
		back = nil
	}
	if back == nil {
		back = os.Remove(d.join(tmp))
	}
	return fmt.Errorf("remove %s: %w", d.join(name), errors.Join(errChanged, err, back))
}

func (d folder) remove(name string) error {
	err := os.Remove(d.join(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, d.sync())
}

// sweep removes what a killed process left half written.
func (d folder) sweep() error {
	files, err := os.ReadDir(d.path)
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range files {
		if strings.HasPrefix(f.Name(), tempPrefix) && strings.HasSuffix(f.Name(), tempSuffix) {
			errs = append(errs, os.Remove(d.join(f.Name())))
		}
	}
	return errors.Join(errs...)
}

// sync makes the folder's entries durable.
func (d folder) sync() error {
	f, err := os.Open(d.path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
