// Package token is the local stand-in for Kubernetes' bound service account
// tokens: JWTs with the same claims, minted by the local runtime for a pod that
// it started and verified by the control plane. It owns the key, the claims and
// their limits. It refuses to know whether the pod lives (control/identity asks
// the catalog) and where tokens are put.
//
// The key is one file of mode 0600 in a folder of mode 0700, outside pods. It
// survives restarts; removing the folder voids every token.
package token

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// MaxLifetime bounds what may be minted and what is accepted.
const MaxLifetime = time.Hour

// KeyFile is the key's name in its folder.
const KeyFile = "token.key"

// Claims are what a token proves: that the holder is this pod.
type Claims struct {
	Namespace      string
	ServiceAccount string
	Pod            string
	PodUID         string
}

// Key mints and verifies. It is safe for use by many.
type Key struct {
	private *ecdsa.PrivateKey
	now     func() time.Time
}

// Open reads the key in folder dir, or makes folder and key where they are
// absent. Two processes that open an empty folder at once get the same key.
func Open(dir string) (*Key, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open token key: %w", err)
	}
	path := filepath.Join(dir, KeyFile)
	k, err := read(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := create(dir, path); err != nil {
			return nil, fmt.Errorf("make token key %s: %w", path, err)
		}
		k, err = read(path)
	}
	if err != nil {
		return nil, err
	}
	return k, nil
}

// create puts a new key at path unless one is there by now: the file appears
// whole, by a link from a temporary name.
func create(dir, path string) (err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".key-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(tmp.Name())) }()
	_, err = tmp.Write(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func read(path string) (*Key, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read token key: %w", err)
	}
	if m := info.Mode().Perm(); m&0o077 != 0 {
		return nil, fmt.Errorf("read token key %s: mode %#o lets others read it: chmod 600 it, or remove it so that a new one is made", path, m)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read token key: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("read token key %s: not PEM: remove it so that a new one is made", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read token key %s: %w", path, err)
	}
	private, ok := key.(*ecdsa.PrivateKey)
	if !ok || private.Curve != elliptic.P256() {
		return nil, fmt.Errorf("read token key %s: not an ECDSA P-256 key: remove it so that a new one is made", path)
	}
	return &Key{private: private, now: time.Now}, nil
}
