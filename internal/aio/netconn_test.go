package aio_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is two adapters joined by a pipe of the given buffer on a running loop.
func pair(t *testing.T, limit int) (l *aiotest.Loop, a, b aio.CloseWriter, stop func()) {
	t.Helper()
	l = aiotest.NewLoop()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { l.Serve(ctx) })
	l.Do(func() {
		ca, cb := aiotest.Pipe(l, limit)
		a, b = aio.NetConn(ca), aio.NetConn(cb)
	})
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	return l, a, b, stop
}

func TestNetConnLargeTransferBothWays(t *testing.T) {
	_, a, b, _ := pair(t, 5000)
	const size = 3 << 20
	var wg sync.WaitGroup
	one := func(from, to aio.CloseWriter, seed byte) {
		data := make([]byte, size)
		r := rand.NewChaCha8([32]byte{seed})
		_, _ = r.Read(data)
		want := sha256.Sum256(data)
		wg.Go(func() {
			for p := data; len(p) > 0; {
				k := min(len(p), 1+rand.IntN(70000))
				if n, err := from.Write(p[:k]); err != nil || n != k {
					t.Errorf("write: %d of %d, %v", n, k, err)
					return
				}
				p = p[k:]
			}
			if err := from.CloseWrite(); err != nil {
				t.Errorf("close write: %v", err)
			}
		})
		wg.Go(func() {
			got, err := io.ReadAll(to)
			if err != nil || sha256.Sum256(got) != want {
				t.Errorf("received %d bytes, %v; want the %d sent", len(got), err, size)
			}
		})
	}
	one(a, b, 1)
	one(b, a, 2)
	wg.Wait()
	_ = a.Close()
	_ = b.Close()
}

func TestNetConnHalfClose(t *testing.T) {
	_, a, b, _ := pair(t, 0)
	if _, err := a.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	if err := a.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(b); err != nil || string(got) != "question" {
		t.Fatalf("read %q, %v", got, err)
	}
	if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after CloseWrite: %v", err)
	}
	if _, err := b.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	_ = b.Close()
	if got, err := io.ReadAll(a); err != nil || string(got) != "answer" {
		t.Fatalf("read %q, %v", got, err)
	}
	_ = a.Close()
}

func TestNetConnDeadlines(t *testing.T) {
	_, a, b, _ := pair(t, 100)
	start := time.Now()
	_ = a.SetReadDeadline(start.Add(30 * time.Millisecond))
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) < 30*time.Millisecond {
		t.Errorf("read: %v after %v", err, time.Since(start))
	}
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read after the deadline: %v", err)
	}
	var ne net.Error
	_ = a.SetWriteDeadline(time.Now().Add(30 * time.Millisecond))
	n, err := a.Write(make([]byte, 1<<20))
	if !errors.As(err, &ne) || !ne.Timeout() || n == 0 || n > 100+2*(32<<10) {
		t.Errorf("write: %d, %v", n, err)
	}
	// A new deadline makes both directions usable again.
	_ = a.SetDeadline(time.Time{})
	if _, err := b.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if k, err := a.Read(make([]byte, 8)); k != 1 || err != nil {
		t.Errorf("read after a new deadline: %d, %v", k, err)
	}
	// A deadline that moves wakes a reader that is already waiting.
	done := make(chan error, 1)
	go func() { _, err := a.Read(make([]byte, 1)); done <- err }()
	_ = a.SetReadDeadline(time.Now().Add(-time.Second))
	if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("waiting read: %v", err)
	}
	_, _ = a.Close(), b.Close()
}

func TestNetConnCloseUnblocksAndIsIdempotent(t *testing.T) {
	_, a, b, _ := pair(t, 10)
	errs := make(chan error, 2)
	go func() { _, err := a.Read(make([]byte, 1)); errs <- err }()
	go func() { _, err := a.Write(make([]byte, 1<<20)); errs <- err }()
	time.Sleep(20 * time.Millisecond)
	for range 3 {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
	for range 2 {
		if err := <-errs; !errors.Is(err, net.ErrClosed) {
			t.Errorf("%v, want net.ErrClosed", err)
		}
	}
	if _, err := a.Read(nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read after close: %v", err)
	}
	_ = b.Close()
}

// Close delivers what was written before it, however slow the reader.
func TestNetConnCloseDelivers(t *testing.T) {
	_, a, b, _ := pair(t, 50)
	want := bytes.Repeat([]byte("0123456789"), 2000)
	if _, err := a.Write(want); err != nil {
		t.Fatal(err)
	}
	_ = a.Close()
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v; want %d", len(got), err, len(want))
	}
	_ = b.Close()
}

func TestNetConnReset(t *testing.T) {
	l := aiotest.NewLoop()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { l.Serve(ctx) })
	defer wg.Wait()
	defer cancel()
	var a aio.CloseWriter
	var far *aiotest.Conn
	l.Do(func() {
		var near *aiotest.Conn
		near, far = aiotest.Pipe(l, 0)
		a = aio.NetConn(near)
	})
	done := make(chan error, 1)
	go func() { _, err := a.Read(make([]byte, 1)); done <- err }()
	l.Do(func() { far.Reset() })
	if err := <-done; !errors.Is(err, aio.ErrReset) {
		t.Errorf("read: %v, want a reset", err)
	}
	// The write side learns of it as well.
	deadline := time.Now().Add(5 * time.Second)
	for {
		_, err := a.Write([]byte("x"))
		if errors.Is(err, aio.ErrReset) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("write: %v, want a reset", err)
		}
		time.Sleep(time.Millisecond)
	}
	_ = a.Close()
}

// A reader that stops costs its sender's progress, not memory.
func TestNetConnBounded(t *testing.T) {
	l, a, b, _ := pair(t, 1000)
	_ = a.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	n, err := a.Write(make([]byte, 1<<20))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("write: %d, %v", n, err)
	}
	if limit := 2*(32<<10) + 1000; n > limit {
		t.Errorf("%d bytes were taken, at most %d can be held", n, limit)
	}
	_ = l
	_, _ = a.Close(), b.Close()
}

func TestNetConnAfterTheLoopEnded(t *testing.T) {
	_, a, _, stop := pair(t, 0)
	stop()
	if _, err := a.Write([]byte("x")); err == nil {
		_, err = a.Read(make([]byte, 1))
		if !errors.Is(err, aio.ErrClosed) {
			t.Errorf("%v, want ErrClosed", err)
		}
	}
	_ = a.Close()
}

// A Close whose bytes nobody reads ends with a reset after the linger.
func TestNetConnLinger(t *testing.T) {
	l := aiotest.NewLoop()
	near, far := aiotest.Pipe(l, 10)
	a := aio.NetConn(near)
	if _, err := a.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	_ = a.Close()
	l.Run(t)
	if near.IsClosed() {
		t.Fatal("closed with bytes unsent")
	}
	l.Advance(t, 11*time.Second)
	if !near.IsClosed() || !far.WasReset() {
		t.Error("still open after the linger")
	}
}
