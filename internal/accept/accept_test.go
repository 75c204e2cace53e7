package accept

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pipes gives connections, and fails while err is set.
type pipes struct {
	err    atomic.Pointer[error]
	calls  atomic.Int64
	conns  chan net.Conn
	closed chan struct{}
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) fail(err error) {
	if err == nil {
		p.err.Store(nil)
		return
	}
	err = &net.OpError{Op: "accept", Net: "tcp", Addr: p.Addr(), Err: os.NewSyscallError("accept4", err)}
	p.err.Store(&err)
}

func (p *pipes) Accept() (net.Conn, error) {
	p.calls.Add(1)
	if err := p.err.Load(); err != nil {
		return nil, *err
	}
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	close(p.closed)
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// What a process meets that is out of descriptors, and a host out of memory, is
// outlived, at a pace that bothers nobody, and said meanwhile.
func TestFailuresPass(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EPERM} {
		t.Run(errno.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPipes()
				l := Keep(p, quiet())
				if l.Err() != nil {
					t.Errorf("before the first connection: %v", l.Err())
				}
				p.fail(errno)
				got := make(chan error, 1)
				go func() {
					for {
						c, err := l.Accept()
						if err == nil {
							err = c.Close()
						}
						got <- err
						if errors.Is(err, net.ErrClosed) {
							return
						}
					}
				}()
				time.Sleep(time.Minute)
				if n := p.calls.Load(); n < 30 || n > 150 {
					t.Errorf("%d calls in a minute", n)
				}
				if err := l.Err(); !errors.Is(err, errno) {
					t.Errorf("while it fails: %v", err)
				}
				if uint64(p.calls.Load()) != l.Failures() {
					t.Errorf("%d failures counted, of %d", l.Failures(), p.calls.Load())
				}
				p.fail(nil)
				time.Sleep(2 * time.Second)
				if err := l.Err(); err != nil {
					t.Errorf("it waits for somebody: %v", err)
				}
				a, b := net.Pipe()
				defer a.Close()
				p.conns <- b
				if err := <-got; err != nil {
					t.Error(err)
				}
				if err := l.Close(); err != nil {
					t.Error(err)
				}
				if err := <-got; !errors.Is(err, net.ErrClosed) {
					t.Errorf("after Close: %v", err)
				}
			})
		})
	}
}

// Close ends an Accept that pauses.
func TestCloseEndsAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		p.fail(syscall.EMFILE)
		l := Keep(p, quiet())
		got := make(chan error, 1)
		go func() {
			_, err := l.Accept()
			got <- err
		}()
		time.Sleep(time.Minute)
		synctest.Wait()
		begin := time.Now()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if err := <-got; !errors.Is(err, net.ErrClosed) || time.Since(begin) != 0 {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
	})
}

// net/http alone ends with ENOBUFS and ENOMEM.
func TestHTTPOutlives(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.NotFoundHandler(), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	served := make(chan error, 1)
	l := Keep(&once{Listener: inner, err: os.NewSyscallError("accept4", syscall.ENOMEM)}, quiet())
	go func() { served <- srv.Serve(l) }()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := c.Get("http://" + inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	_ = srv.Close()
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}

// once fails the first call.
type once struct {
	net.Listener
	err    error
	failed atomic.Bool
}

func (o *once) Accept() (net.Conn, error) {
	if !o.failed.Swap(true) {
		return nil, fmt.Errorf("accept: %w", o.err)
	}
	return o.Listener.Accept()
}
