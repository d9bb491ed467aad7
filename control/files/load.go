package files

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// File is a file of manifests as it was read.
type File struct {
	Name string
	Data []byte
}

// Read reads the files at paths: files, folders (all *.yaml, *.yml and *.json
// under them), or "-" for stdin.
func Read(stdin io.Reader, paths ...string) ([]File, error) {
	var all []File
	var errs []error
	for _, p := range paths {
		names, err := expand(p)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, n := range names {
			data, err := read(stdin, n)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			all = append(all, File{Name: n, Data: data})
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return all, nil
}

// Load reads manifests from paths, as Read does. It parses only; Check tells
// whether the whole hangs together.
func Load(stdin io.Reader, paths ...string) (*Set, error) {
	list, err := Read(stdin, paths...)
	if err != nil {
		return nil, err
	}
	return ParseAll(list)
}

// ParseAll parses several files into one set, or returns every error in them.
func ParseAll(list []File) (*Set, error) {
	all := &Set{}
	var errs []error
	for _, f := range list {
		s, err := Parse(f.Name, f.Data)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all.Merge(s)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return all, nil
}

func expand(path string) ([]string, error) {
	if path == "-" {
		return []string{path}, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read manifests: %w", err)
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	var names []string
	err = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && IsManifest(d.Name()) {
			names = append(names, p)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read manifests in %s: %w", path, err)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("read manifests in %s: no file named *.yaml, *.yml or *.json", path)
	}
	slices.Sort(names)
	return names, nil
}

func read(stdin io.Reader, path string) ([]byte, error) {
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("read manifest: %w", err)
		}
		defer f.Close()
		stdin = f
	}
	data, err := io.ReadAll(io.LimitReader(stdin, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", path, err)
	}
	return data, nil
}

// IsManifest reports whether a file's name is one that folders are read for:
// *.yaml, *.yml, *.json, and not hidden, as files that are still being written
// commonly are.
func IsManifest(name string) bool {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".yaml", ".yml", ".json":
		return !strings.HasPrefix(name, ".")
	}
	return false
}
