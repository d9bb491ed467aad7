package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// copySelf puts the program where another container finds it.
func copySelf(to string) error {
	raw, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	return os.WriteFile(to, raw, 0o755)
}

// once is a job that needs a second try.
func once(file string) error {
	_, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.Join(errors.New("the first try fails"), os.WriteFile(file, nil, 0o644))
	}
	return err
}

// tarMain is as much of tar as kubectl cp asks for: "cf - FILE" and "-xmf - -C DIR".
func tarMain(args []string) error {
	switch {
	case len(args) == 3 && args[0] == "cf" && args[1] == "-":
		return pack(os.Stdout, args[2])
	case len(args) >= 2 && args[0] == "-xmf" && args[1] == "-":
		dir := "."
		if len(args) == 4 && args[2] == "-C" {
			dir = args[3]
		}
		return unpack(os.Stdin, dir)
	}
	return fmt.Errorf("tar %q is not what kubectl cp asks for", args)
}

func pack(to io.Writer, file string) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	w := tar.NewWriter(to)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(file, "/"), Mode: 0o644, Size: int64(len(raw))}); err != nil {
		return err
	}
	if _, err := w.Write(raw); err != nil {
		return err
	}
	return w.Close()
}

func unpack(from io.Reader, dir string) error {
	r := tar.NewReader(from)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		raw, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(h.Name)), raw, 0o644); err != nil {
			return err
		}
	}
}
