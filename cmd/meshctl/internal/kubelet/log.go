package kubelet

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// maxLog bounds a container's log file; the one before it is kept beside it.
const maxLog = 1 << 20

// OldLog is the suffix of the file that was full.
const OldLog = ".1"

// logFile keeps a container's output over its restarts: the last one to two
// megabytes.
type logFile struct {
	path string
	mu   sync.Mutex
	f    *os.File
	size int64
}

func openLog(path string) (*logFile, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	l := &logFile{path: path}
	return l, l.open()
}

func (l *logFile) open() error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	l.f, l.size = f, fi.Size()
	return nil
}

// Write appends b. When the file cannot be written the output is dropped: a
// container must not block on its log.
func (l *logFile) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return len(b), nil
	}
	if l.size+int64(len(b)) > maxLog {
		_ = l.f.Close()
		l.f = nil
		_ = os.Rename(l.path, l.path+OldLog)
		if l.open() != nil {
			return len(b), nil
		}
	}
	n, _ := l.f.Write(b)
	l.size += int64(n)
	return len(b), nil
}

func (l *logFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return nil
	}
	err := l.f.Close()
	l.f = nil
	return err
}

// tail is the last part of the log, at most n bytes: why a container ended.
func (l *logFile) tail(n int64) string {
	f, err := os.Open(l.path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && fi.Size() > n {
		_, _ = f.Seek(-n, io.SeekEnd)
	}
	b, _ := io.ReadAll(io.LimitReader(f, n))
	return string(b)
}
