package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Files of a Folder, all of mode 0600.
const (
	// AnchorsFile is the bundle of trust anchors: certificates. Add another here
	// to rotate; remove the old one when every sidecar has renewed.
	AnchorsFile = "anchors.pem"
	// AnchorKeyFile is the key of the anchor that the folder made itself. It may
	// be taken away and kept elsewhere; then the issuer is not renewed here.
	AnchorKeyFile = "anchor.key"
	// IssuerFile is the issuer's certificate, intermediates, and key, in one file
	// so that one rename replaces all.
	IssuerFile = "issuer.pem"
)

const (
	anchorLifetime = 10 * 365 * 24 * time.Hour
	issuerLifetime = 365 * 24 * time.Hour
	// issuerRenewal is what is left of an issuer's life when it is replaced.
	issuerRenewal = issuerLifetime * 3 / 10
	// reloadDelay joins the events of one change of several files.
	reloadDelay = 200 * time.Millisecond
	// reloadPeriod finds what no event told of, and an issuer that grows old.
	reloadPeriod = 30 * time.Second
)

// Folder keeps an Authority in files and follows their changes.
type Folder struct {
	holder
	dir         string
	trustDomain string
	now         func() time.Time
}

// OpenFolder reads the folder, or makes what is missing: the folder (0700), a
// trust anchor, an issuer. It refuses files that others may read.
func OpenFolder(dir, trustDomain string, log *slog.Logger) (*Folder, error) {
	f := &Folder{holder: newHolder(log), dir: dir, trustDomain: trustDomain, now: time.Now}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open certificate authority: %w", err)
	}
	if err := f.create(); err != nil {
		return nil, fmt.Errorf("open certificate authority in %s: %w", dir, err)
	}
	a, err := f.read()
	if err != nil {
		return nil, fmt.Errorf("open certificate authority in %s: %w", dir, err)
	}
	f.current.Store(a)
	return f, nil
}

// Run follows the folder until ctx ends. What cannot be used is reported, and
// the last good authority stays.
func (f *Folder) Run(ctx context.Context) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch certificate authority: %w", err)
	}
	defer w.Close()
	if err := w.Add(f.dir); err != nil {
		return fmt.Errorf("watch certificate authority: %w", err)
	}
	timer := time.NewTimer(reloadPeriod)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.Events:
			timer.Reset(reloadDelay)
		case err := <-w.Errors:
			f.log.Warn("watch of the certificate authority's folder lost events", "err", err)
			timer.Reset(reloadDelay)
		case <-timer.C:
			f.reload()
			timer.Reset(reloadPeriod)
		}
	}
}

func (f *Folder) reload() {
	if err := f.renewIssuer(); err != nil {
		f.report(fmt.Errorf("renew issuer: %w", err))
	}
	a, err := f.read()
	if err != nil {
		f.report(err)
		return
	}
	f.adopt(a)
}

func (f *Folder) path(name string) string { return filepath.Join(f.dir, name) }

func (f *Folder) read() (*Authority, error) {
	anchors, err := os.ReadFile(f.path(AnchorsFile))
	if err != nil {
		return nil, fmt.Errorf("read trust anchors: %w", err)
	}
	issuer, err := readPrivate(f.path(IssuerFile))
	if err != nil {
		return nil, fmt.Errorf("read issuer: %w", err)
	}
	return NewAuthority(anchors, issuer, issuer, f.now())
}

// readPrivate reads a file that holds a key, unless others may read it too.
func readPrivate(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if m := info.Mode().Perm(); m&0o077 != 0 {
		return nil, fmt.Errorf("%s: mode %#o lets others read a key: chmod 600 it", path, m)
	}
	return os.ReadFile(path)
}

// create makes an anchor where there is none, and an issuer where there is none
// or it grows old. What exists is never replaced otherwise.
func (f *Folder) create() error {
	if _, err := os.Stat(f.path(AnchorsFile)); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(f.path(IssuerFile)); err == nil {
			return fmt.Errorf("there is an %s but no %s: put the trust anchors back, or remove both to make new ones", IssuerFile, AnchorsFile)
		}
		if err := f.createAnchor(); err != nil {
			return fmt.Errorf("make trust anchor: %w", err)
		}
	}
	if err := f.renewIssuer(); err != nil {
		return fmt.Errorf("make issuer: %w", err)
	}
	return nil
}

func (f *Folder) createAnchor() error {
	anchor, keyPEM, err := NewAnchor(f.trustDomain, f.now())
	if err != nil {
		return err
	}
	// The key first: an anchor without its key would be taken for a foreign one.
	if err := write(f.path(AnchorKeyFile), keyPEM); err != nil {
		return err
	}
	return write(f.path(AnchorsFile), anchor)
}

// renewIssuer makes an issuer when there is none, and a new one when the one
// that the folder made has less than issuerRenewal to live. Without the anchor's
// key it does nothing unless there is none at all.
func (f *Folder) renewIssuer() error {
	old, err := readPrivate(f.path(IssuerFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	default:
		list, err := certificates(old)
		if err != nil || f.now().Add(issuerRenewal).Before(list[0].NotAfter) || list[0].Subject.String() != subject(issuerName, f.trustDomain).String() {
			return nil // unreadable, young or not ours: read() judges it
		}
	}
	keyPEM, err := readPrivate(f.path(AnchorKeyFile))
	if errors.Is(err, fs.ErrNotExist) && old != nil {
		return nil
	}
	if err != nil {
		return err
	}
	anchorKey, err := privateKey(keyPEM)
	if err != nil {
		return fmt.Errorf("read anchor's key: %w", err)
	}
	anchor, err := f.anchorOf(anchorKey.Public().(*ecdsa.PublicKey))
	if err != nil {
		return err
	}
	cert, key, err := newIssuer(anchor, anchorKey, f.trustDomain, f.now())
	if err != nil {
		return err
	}
	return write(f.path(IssuerFile), append(cert, key...))
}

// anchorOf finds the anchor in the bundle that a key belongs to.
func (f *Folder) anchorOf(pub *ecdsa.PublicKey) (*x509.Certificate, error) {
	data, err := os.ReadFile(f.path(AnchorsFile))
	if err != nil {
		return nil, err
	}
	list, err := certificates(data)
	if err != nil {
		return nil, err
	}
	for _, c := range list {
		if pub.Equal(c.PublicKey) {
			return c, nil
		}
	}
	return nil, fmt.Errorf("%s is the key of no anchor in %s: remove it, or add its anchor", AnchorKeyFile, AnchorsFile)
}

// write replaces a file whole, mode 0600.
func write(path string, data []byte) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
